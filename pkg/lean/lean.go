// Package lean gives back memory that a process holds and does not need.
package lean

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Unmap takes the pages of the program itself out of the process's memory:
// those that are needed come back at the next use, 64 KB at a time, from the
// page cache, where they stay while others use them; what only the start needed
// does not. It is for a process that has done something large and goes on with
// something small.
func Unmap() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	own := []byte(" " + exe + "\n")
	var start, end uint64
	for line := range bytes.Lines(raw) {
		f := bytes.Fields(line)
		switch {
		case len(f) >= 6 && bytes.IndexByte(f[0], '-') > 0:
			a, b, _ := bytes.Cut(f[0], []byte{'-'})
			start, _ = strconv.ParseUint(string(a), 16, 64)
			end, _ = strconv.ParseUint(string(b), 16, 64)
			// Not what is writable, and no other file's: that may be
			// unmapped by another thread before we come to it, and
			// something else may be in its place.
			if f[1][1] != '-' || !bytes.HasSuffix(line, own) {
				end = 0
			}
		case len(f) == 3 && string(f[0]) == "Anonymous:" && end > start:
			// Nothing in it was written to, so dropping loses nothing.
			if string(f[1]) == "0" {
				_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
			}
		}
	}
}
