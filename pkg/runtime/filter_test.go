//go:build cgo && seccomp

package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// denying is a profile that allows everything but some system calls.
func denying(calls ...string) *specs.LinuxSeccomp {
	errno := uint(1)
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: calls, Action: specs.ActErrno, ErrnoRet: &errno}},
	}
}

// runWith runs args under a profile (nil is none) and gives output and code.
func runWith(t *testing.T, o CreateOptions, profile *specs.LinuxSeccomp, args ...string) (string, int) {
	t.Helper()
	spec := NewSpec(false)
	spec.Process.Terminal, spec.Process.Args = false, args
	spec.Root.Readonly = false
	spec.Linux.Seccomp = profile
	writeSpec(t, o.Bundle, spec)
	var out, errs bytes.Buffer
	o.Stdout, o.Stderr = &out, &errs
	code, err := Run(context.Background(), o)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return out.String() + errs.String(), code
}

func kept(t *testing.T, o CreateOptions) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(o.Root, ".seccomp-*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFilterIsCompiledOnceAndEnforcedEachTime(t *testing.T) {
	o := bundle(t)
	mkdir := []string{"busybox", "mkdir", "/tmp-x"}
	runs := func(what string) {
		t.Helper()
		if out, code := runWith(t, o, denying("mkdir", "mkdirat"), mkdir...); code == 0 {
			t.Errorf("%s: mkdir succeeded: %s", what, out)
		}
		if out, code := runWith(t, o, denying("mkdir", "mkdirat"), "true"); code != 0 {
			t.Errorf("%s: true failed: %s", what, out)
		}
	}
	runs("compiled")
	files := kept(t, o)
	if len(files) != 1 {
		t.Fatalf("kept files: %v", files)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	runs("kept")

	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	for what, content := range map[string][]byte{"damaged": bad, "torn": good[:len(good)/2], "empty": nil} {
		if err := os.WriteFile(files[0], content, 0o600); err != nil {
			t.Fatal(err)
		}
		runs(what)
		if got, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(got, good) {
			t.Errorf("%s: not kept anew: %v", what, err)
		}
	}
}

func TestFilterOfAnotherProfileIsNotUsed(t *testing.T) {
	o := bundle(t)
	runWith(t, o, denying("getpid"), "true")
	other := kept(t, o)
	runWith(t, o, denying("mkdir", "mkdirat"), "true")
	for _, f := range kept(t, o) {
		if f == other[0] {
			continue
		}
		raw, err := os.ReadFile(other[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := runWith(t, o, denying("mkdir", "mkdirat"), "busybox", "mkdir", "/tmp-y"); code == 0 {
			t.Errorf("mkdir succeeded under another profile's filter: %s", out)
		}
		if now, err := os.ReadFile(f); err != nil || bytes.Equal(now, raw) {
			t.Errorf("the other profile's filter stays: %v", err)
		}
		return
	}
	t.Fatalf("kept files: %v", kept(t, o))
}

func TestFilterFileThatOthersMayWriteIsNotUsed(t *testing.T) {
	o := bundle(t)
	runWith(t, o, denying("mkdir", "mkdirat"), "true")
	f := kept(t, o)[0]
	before, err := os.Stat(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f, 0o666); err != nil {
		t.Fatal(err)
	}
	runWith(t, o, denying("mkdir", "mkdirat"), "true")
	after, err := os.Stat(f)
	if err != nil || os.SameFile(before, after) || after.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v: not replaced", err, after.Mode())
	}
}

func TestContainerDoesNotGetTheFilter(t *testing.T) {
	o := bundle(t)
	list := []string{"sh", "-c", "echo /proc/self/fd/*"}
	without, _ := runWith(t, o, nil, list...)
	for range 2 {
		if with, _ := runWith(t, o, denying("getpid"), list...); with != without {
			t.Errorf("descriptors %q, without a profile %q", with, without)
		}
	}
}

// Whoever gets at the descriptor on its way to init cannot change the filter:
// not a process that a container runs, and not the user's own others.
func TestFilterThatIsHandedOverCannotBeWritten(t *testing.T) {
	f := passFilter(t.TempDir(), &configs.Seccomp{
		DefaultAction: configs.Allow,
		Syscalls:      []*configs.Syscall{{Name: "getpid", Action: configs.Errno}},
	})
	if f == nil {
		t.Fatal("no filter")
	}
	defer f.Close()
	before, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil || decodeFilter([32]byte(before[len(filterMagic):]), before) == nil {
		t.Fatalf("%v: no filter in %d bytes", err, len(before))
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncating: %v", err)
	}
	if err := f.Truncate(1 << 20); !errors.Is(err, unix.EPERM) {
		t.Errorf("growing: %v", err)
	}
	if _, err := unix.Mmap(int(f.Fd()), 0, len(before), unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
		t.Errorf("mapping: %v", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_EXEC); !errors.Is(err, unix.EPERM) {
		t.Errorf("sealing: %v", err)
	}
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	if err == nil {
		defer again.Close()
		if _, err = again.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
			t.Errorf("writing to a second descriptor: %v", err)
		}
	}
	after, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("%v: it has changed", err)
	}
}

func TestFiltersThatAreKeptAreBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 * keptFilters {
		key := [32]byte{byte(i)}
		keepFilter(filepath.Join(dir, ".seccomp-"+string(rune('A'+i))), key, []byte{1})
	}
	if n := len(kept(t, CreateOptions{Root: dir})); n == 0 || n > keptFilters {
		t.Errorf("%d files are kept", n)
	}
}
