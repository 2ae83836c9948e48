package lean

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnmap: the program goes on, and mappings that are not its own stay.
func TestUnmap(t *testing.T) {
	page := os.Getpagesize()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, bytes.Repeat([]byte{1}, page), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := unix.Mmap(int(f.Fd()), 0, page, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(file) //nolint:errcheck // the process ends
	before := programPages(t)
	Unmap()
	if after := programPages(t); after >= before {
		t.Errorf("%d KB of the program are resident, %d before", after, before)
	}
	if got := resident(t, name); got != page>>10 {
		t.Errorf("%d KB of another file are resident", got)
	}
}

func programPages(t *testing.T) int {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return resident(t, exe)
}

// resident is how much of a file is mapped and in memory, in KB.
func resident(t *testing.T, name string) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	total, counts := 0, false
	for line := range bytes.Lines(raw) {
		f := bytes.Fields(line)
		switch {
		case bytes.IndexByte(f[0], '-') > 0:
			counts = bytes.HasSuffix(line, []byte(" "+name+"\n"))
		case counts && string(f[0]) == "Rss:":
			n, err := strconv.Atoi(string(f[1]))
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
	}
	return total
}
