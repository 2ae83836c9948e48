// Workset is an application with a working set: it maps a file and reads it for
// ever, in random order, a megabyte at a time. For each it prints a line: when it
// began (nanoseconds since 1970), how many microseconds it took, and how many
// major faults.
//
//	workset [-pause DURATION] FILE
//	workset -resident FILE...        prints how many bytes of each are in the page cache
package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const request = 1 << 20

var (
	page = os.Getpagesize()
	Sum  byte // exported, so that the reads stay
)

func main() {
	pause := flag.Duration("pause", 20*time.Millisecond, "between two requests")
	resident := flag.Bool("resident", false, "print how many bytes of the files are in the page cache, and end")
	flag.Parse()
	err := fmt.Errorf("usage: workset [-pause DURATION] FILE, workset -resident FILE [FILE]")
	switch {
	case *resident && flag.NArg() > 0:
		err = printResident(flag.Args())
	case !*resident && flag.NArg() == 1:
		err = serve(flag.Arg(0), *pause)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "workset:", err)
		os.Exit(1)
	}
}

func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", path, err)
	}
	return b, nil
}

// serve reads a random part every pause. Without read-ahead: each page that was
// evicted is a fault of its own.
func serve(path string, pause time.Duration) error {
	b, err := mapFile(path)
	if err != nil {
		return err
	}
	if err := unix.Madvise(b, unix.MADV_RANDOM); err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	for {
		at := rand.IntN(max(1, len(b)/request)) * request
		faults, began := majorFaults(), time.Now()
		for _, i := range rand.Perm(min(request, len(b)) / page) {
			Sum += b[at+i*page]
		}
		took := time.Since(began)
		fmt.Fprintln(out, began.UnixNano(), took.Microseconds(), majorFaults()-faults)
		if err := out.Flush(); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

func majorFaults() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return int64(u.Majflt)
}

func printResident(paths []string) error {
	for _, path := range paths {
		b, err := mapFile(path)
		if err != nil {
			return err
		}
		vec := make([]byte, (len(b)+page-1)/page)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&vec[0]))); errno != 0 {
			return fmt.Errorf("mincore of %s: %w", path, errno)
		}
		n := 0
		for _, v := range vec {
			n += int(v & 1)
		}
		fmt.Println(n * page)
		_ = unix.Munmap(b)
	}
	return nil
}
