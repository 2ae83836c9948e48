package store

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lockHolder names the process that holds a flock on f, from /proc/locks.
func lockHolder(f *os.File) string {
	const nobody = "a process that /proc/locks does not show"
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nobody
	}
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino) //nolint:unconvert // Dev is 32 bits wide on some architectures
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return nobody
	}
	defer locks.Close()
	for sc := bufio.NewScanner(locks); sc.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF
		w := strings.Fields(sc.Text())
		if len(w) < 6 || w[1] == "->" || w[1] != "FLOCK" || w[5] != want {
			continue
		}
		cmd, err := os.ReadFile("/proc/" + w[4] + "/cmdline")
		if err != nil {
			return "process " + w[4]
		}
		return fmt.Sprintf("process %s (%s)", w[4], strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " ")))
	}
	return nobody
}
