package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

const (
	prSetSeccomp      = 22
	prSetNoNewPrivs   = 38
	seccompModeFilter = 2
)

// sockFprog is struct sock_fprog.
type sockFprog struct {
	len    uint16
	filter *byte
}

// Load gives the calling thread the filter, and what it executes. It does not
// ask Export: whoever loads a filter (buildah's chroot isolation) may have left
// the place where programs are kept.
func (f *ScmpFilter) Load() error {
	if f.log || f.ssb || f.waitKill {
		return errors.New("loading a filter with flags is not supported by balena")
	}
	prog, err := f.compile()
	if err != nil {
		return err
	}
	const size = 8 // struct sock_filter
	if len(prog) == 0 || len(prog)%size != 0 || len(prog)/size > 0xffff {
		return fmt.Errorf("a filter of %d bytes cannot be loaded", len(prog))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if f.noNewPrivs {
		if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); e != 0 {
			return fmt.Errorf("setting no_new_privs: %w", e)
		}
	}
	fp := sockFprog{uint16(len(prog) / size), &prog[0]}
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetSeccomp, seccompModeFilter, uintptr(unsafe.Pointer(&fp)), 0, 0, 0); e != 0 {
		return fmt.Errorf("loading the filter: %w", e)
	}
	return nil
}

// Release does nothing: nothing of libseccomp's is kept.
func (f *ScmpFilter) Release() {}
