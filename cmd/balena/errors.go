package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/build"
	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// exitEngine is the code of the engine's failures; a container's own come through
// as they are.
// 126 and 127 come with monitor.StartError: the command cannot be executed, or
// was not found.
const exitEngine = 125

// exitStatus ends the command with a code of its own, and with a message when
// err is set: a container's exit code, a failed test as of `image exists`.
type exitStatus struct {
	code int
	err  error
}

func (e exitStatus) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e exitStatus) Unwrap() error { return e.err }

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitCode prints an error with its hint and turns it into the process's exit
// code: the one place that does either.
func (e *env) exitCode(err error) int {
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		if status.err != nil {
			e.printError(status.err)
		}
		return status.code
	}
	e.printError(err)
	var start *monitor.StartError
	if errors.As(err, &start) {
		return start.Code
	}
	return exitEngine
}

func (e *env) printError(err error) {
	fmt.Fprintln(e.stderr, "Error: "+printable(strings.TrimSpace(err.Error())))
	if e.st != nil && errors.Is(err, unix.EDQUOT) { // how much is left of it, the kernel does not say to everyone
		fmt.Fprintf(e.stderr, "hint: a quota limits what %s may take: 'balena system df' shows what takes how much, 'balena system prune' and 'balena rmi' free some\n",
			e.st.Root())
		return
	}
	if e.st != nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, pull.ErrNoSpace)) {
		fmt.Fprintf(e.stderr, "hint: %s has %s free: 'balena system df' shows what takes how much, 'balena system prune' and 'balena rmi' free some\n",
			e.st.Root(), bytes(e.st.Free()))
		return
	}
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EROFS) {
		fmt.Fprintln(e.stderr, "hint: the disk may be failing, or its filesystem was made read-only after an error: 'dmesg' says which; 'balena system check' tells what is damaged")
		return
	}
	for _, h := range hints {
		if errors.Is(err, h.is) {
			fmt.Fprintln(e.stderr, "hint: "+h.text)
			return
		}
	}
}

// printable has no control characters but newlines and tabs: what a registry or
// an image says must not play with the terminal.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t' || unicode.IsGraphic(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// errDamageFound is for damage that `system check` has told of.
var errDamageFound = errors.New("see above")

// hints say what to do about an error that a person can do something about.
var hints = []struct {
	is   error
	text string
}{
	{store.ErrCorrupt, "docs/store.md#a-damaged-database tells how to get back: images and volumes are not lost"},
	{store.ErrVersion, "a newer balena wrote it: run that one, or name other folders with --root and --runroot"},
	{store.ErrDriver, "put --root on ext4, xfs or btrfs, install fuse-overlayfs, or use --storage-driver vfs"},
	{pull.ErrUnauthorized, "log in with 'balena login REGISTRY', or look whether the image's name is right"},
	{pull.ErrNotInRepository, "push it there first, with 'balena push', or name the repository that has it: --push=REPO"},
	{pull.ErrNoRepository, "name the repository that has the image: --push=REPO"},
	{pull.ErrNoDelete, "the registry's settings say so: docker-registry needs 'storage: {delete: {enabled: true}}'"},
	{pull.ErrNoDelta, "'balena image delta ls IMAGE' lists those that there are"},
	{pull.ErrNoImage, "fetch it with 'balena pull IMAGE'"},
	{pull.ErrCompressedArchive, "decompress the file first, with 'gunzip', 'zstd -d', 'bunzip2' or 'xz -d': a pull writes no temporary files"},
	{errDamageFound, "repair it with 'balena system check --repair'"},
	{build.ErrNotAllowed, "build with --allow security.insecure if you trust what the Dockerfile runs as you trust what you run yourself"},
	{store.ErrNameInUse, "remove that container with 'balena rm', rename it with 'balena rename', or choose another --name"},
}
