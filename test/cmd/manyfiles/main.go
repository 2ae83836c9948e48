// Manyfiles writes a tar of N files, a thousand in a folder, to its output. Each
// tenth has a hundred bytes, the others none.
//
//	manyfiles N
package main

import (
	"archive/tar"
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func main() {
	n, err := 0, fmt.Errorf("usage: manyfiles N")
	if len(os.Args) == 2 {
		n, err = strconv.Atoi(os.Args[1])
	}
	if err == nil {
		err = write(n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "manyfiles:", err)
		os.Exit(1)
	}
}

func write(n int) error {
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	w := tar.NewWriter(out)
	content := strings.Repeat("content ", 13)[:100]
	for i := range n {
		folder := fmt.Sprintf("folder%04d/", i/1000)
		if i%1000 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755}); err != nil {
				return err
			}
		}
		body := ""
		if i%10 == 0 {
			body = content
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%sfile%03d", folder, i%1000), Mode: 0o644, Size: int64(len(body))}); err != nil {
			return err
		}
		if _, err := w.Write([]byte(body)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Flush()
}
