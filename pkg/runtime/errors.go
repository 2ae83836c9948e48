package runtime

import (
	"errors"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
)

// The errors that callers decide on; compare with errors.Is.
var (
	// ErrNotExist: no container of that ID in the state folder.
	ErrNotExist = libcontainer.ErrNotExist
	// ErrExist: the ID is taken.
	ErrExist = libcontainer.ErrExist
	// ErrInvalidID: the ID has characters other than A-Z a-z 0-9 _ + - .
	ErrInvalidID = libcontainer.ErrInvalidID
	// ErrNotRunning: the container has no process to act on.
	ErrNotRunning = libcontainer.ErrNotRunning
	// ErrEmptyID: no ID was given.
	ErrEmptyID = errors.New("container id cannot be empty")
	// ErrStopped, ErrPaused: exec needs a container that runs.
	ErrStopped = errors.New("cannot exec in a stopped container")
	ErrPaused  = errors.New("cannot exec in a paused container (use --ignore-paused to override)")
)

// Exit codes for a command that could not be run, as shells, docker and
// podman have them.
const (
	exitEngine     = 125
	exitCannotRun  = 126
	exitNotFound   = 127
	exitFromSignal = 128
)

// ExitCode says which exit code an error of Create, Run or Exec stands for:
// 127 if the command was not found in the container, 126 if it was found but
// could not be invoked (not executable, a folder, its working directory or
// user cannot be had), else 125, the engine's own; 0 for nil.
//
// The text decides, since libcontainer passes a child's error as a string.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	msg := err.Error()
	// os/exec.Error of the lookup inside the container: `exec: "NAME": REASON`.
	if _, reason, ok := strings.Cut(msg, `: exec: "`); ok {
		switch {
		case strings.Contains(reason, "executable file not found"),
			strings.Contains(reason, "no such file or directory"),
			strings.Contains(reason, "not a directory"):
			return exitNotFound
		default:
			return exitCannotRun
		}
	}
	for _, s := range []string{"chdir to cwd (", "unable to setup user:", "exec format error"} {
		if strings.Contains(msg, s) {
			return exitCannotRun
		}
	}
	return exitEngine
}
