// Measure runs a command and prints, as one line, how many milliseconds it
// took and the peak resident set, in kilobytes, of it or the largest of its
// descendants. The command's own output is dropped, unless it fails.
//
//	measure COMMAND...
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: measure COMMAND...")
		os.Exit(2)
	}
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	if err != nil {
		fmt.Fprintf(os.Stderr, "measure: %v: %v\n%s", os.Args[1:], err, out.Bytes())
		os.Exit(1)
	}
	// ru_maxrss is in kilobytes on Linux
	rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	fmt.Printf("%.1f %d\n", float64(wall.Microseconds())/1000, rss)
}
