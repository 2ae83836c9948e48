// Balena is a container engine for devices: one binary that is the command
// line, the monitor of each container, the OCI runtime and the network helper,
// chosen by argv[0].
package main

import (
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/balena-os/balena/cmd/balena/internal/runccli"
	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/initd"
	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/runtime"
	"github.com/balena-os/balena/pkg/userns"
	"go.podman.io/storage/pkg/reexec"
)

// stage is one personality of the binary: it gets the arguments after its
// name and returns the exit code.
type stage func(args []string, stdin, stdout, stderr *os.File) int

// stages is the one table that argv[0] is looked up in. Each is also reached
// as `balena NAME ...`, so that no symlink has to exist. The stage
// balena-userns is missing: it is a loop in C that runs before this
// (pkg/userns).
var stages = map[string]stage{
	monitor.Stage:       monitor.Main(true),
	monitor.LaunchStage: monitor.LaunchMain(launch),
	initd.Stage:         initd.Main,
	netns.Stage:         netns.Main,
	"balena-runc":       runccli.Main,
	"runc":              runccli.Main,
}

// A thread that went into a container's namespaces and cannot come back (an
// unprivileged user's cannot) ends with its goroutine. The main thread would
// stay there, so nothing but main runs on it.
func init() { goruntime.LockOSThread() }

func main() {
	os.Exit(realMain(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

func realMain(args []string, stdin, stdout, stderr *os.File) int {
	if reexec.Init() { // containers/storage's own stages
		return 0
	}
	runtime.Init()
	if s, ok := stages[filepath.Base(args[0])]; ok {
		return s(args[1:], stdin, stdout, stderr)
	}
	if len(args) > 1 {
		if s, ok := stages[args[1]]; ok {
			return s(args[2:], stdin, stdout, stderr)
		}
	}
	e := &env{args: args, stdin: stdin, stdout: stdout, stderr: stderr, uid: userns.HostUID()}
	defer e.close()
	cmd := newRootCmd(e)
	cmd.SetArgs(args[1:])
	// Not on the main thread: whatever waits for another goroutine there costs
	// two changes of thread.
	code := make(chan int)
	go func() {
		defer durable.OrDie()
		code <- e.exitCode(cmd.Execute())
	}()
	select {
	case c := <-code:
		return c
	case err := <-durable.Dead:
		e.st = nil // its locks are stuck
		return e.exitCode(err)
	}
}
