package seccomp

import (
	"runtime"
	"syscall"
	"testing"
)

func TestLoad(t *testing.T) {
	f, err := NewFilter(ActAllow)
	if err != nil {
		t.Fatal(err)
	}
	call, err := GetSyscallFromName("getpriority")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.AddRule(call, ActErrno.SetReturnCode(int16(syscall.EXDEV))); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := f.Load(); err != nil {
			done <- err
			return
		}
		_, _, e := syscall.RawSyscall(syscall.SYS_GETPRIORITY, 0, 0, 0)
		done <- e
	}()
	if err := <-done; err != syscall.EXDEV {
		t.Errorf("under the filter: %v", err)
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_GETPRIORITY, 0, 0, 0); e != 0 {
		t.Errorf("another thread: %v", e)
	}
}
