package durable

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Dead gets the error of a disk on which not even a lock can be taken any more.
// containers/storage panics then, with its other locks held, so that nothing
// can be done with it again: whoever runs the process should end it.
var Dead = make(chan error, 1)

// DiskError gives the error that a panic of containers/storage is about, if it
// is about a disk.
func DiskError(panicked any) (error, bool) {
	err, ok := panicked.(error)
	if !ok {
		return nil, false
	}
	for _, e := range []error{unix.EIO, unix.EROFS, unix.ENOSPC, unix.EDQUOT, unix.ENOMEM, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, e) {
			return err, true
		}
	}
	return nil, false
}

// OrDie is deferred by goroutines whose panic nobody else would catch.
func OrDie() {
	p := recover()
	if p == nil {
		return
	}
	err, ok := DiskError(p)
	if !ok {
		panic(p)
	}
	select {
	case Dead <- err:
	default:
	}
	select {} // whoever waits for this goroutine must not go on
}
