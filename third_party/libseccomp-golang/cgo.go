package seccomp

/*
#cgo pkg-config: libseccomp
#include <stdlib.h>
#include <seccomp.h>

// Of libseccomp 2.5.5 and 2.6; older ones refuse the number.
#ifndef SCMP_ARCH_LOONGARCH64
#define SCMP_ARCH_LOONGARCH64 0xc0000102U
#endif
#ifndef SCMP_ARCH_M68K
#define SCMP_ARCH_M68K 4U
#endif
#ifndef SCMP_ARCH_SH
#define SCMP_ARCH_SH 0x4000002aU
#endif
#ifndef SCMP_ARCH_SHEB
#define SCMP_ARCH_SHEB 42U
#endif
*/
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"
)

const (
	ArchInvalid     ScmpArch = 0xffffffff
	ArchNative      ScmpArch = C.SCMP_ARCH_NATIVE
	ArchX86         ScmpArch = C.SCMP_ARCH_X86
	ArchAMD64       ScmpArch = C.SCMP_ARCH_X86_64
	ArchX32         ScmpArch = C.SCMP_ARCH_X32
	ArchARM         ScmpArch = C.SCMP_ARCH_ARM
	ArchARM64       ScmpArch = C.SCMP_ARCH_AARCH64
	ArchMIPS        ScmpArch = C.SCMP_ARCH_MIPS
	ArchMIPS64      ScmpArch = C.SCMP_ARCH_MIPS64
	ArchMIPS64N32   ScmpArch = C.SCMP_ARCH_MIPS64N32
	ArchMIPSEL      ScmpArch = C.SCMP_ARCH_MIPSEL
	ArchMIPSEL64    ScmpArch = C.SCMP_ARCH_MIPSEL64
	ArchMIPSEL64N32 ScmpArch = C.SCMP_ARCH_MIPSEL64N32
	ArchPPC         ScmpArch = C.SCMP_ARCH_PPC
	ArchPPC64       ScmpArch = C.SCMP_ARCH_PPC64
	ArchPPC64LE     ScmpArch = C.SCMP_ARCH_PPC64LE
	ArchS390        ScmpArch = C.SCMP_ARCH_S390
	ArchS390X       ScmpArch = C.SCMP_ARCH_S390X
	ArchPARISC      ScmpArch = C.SCMP_ARCH_PARISC
	ArchPARISC64    ScmpArch = C.SCMP_ARCH_PARISC64
	ArchRISCV64     ScmpArch = C.SCMP_ARCH_RISCV64
	ArchLOONGARCH64 ScmpArch = C.SCMP_ARCH_LOONGARCH64
	ArchM68K        ScmpArch = C.SCMP_ARCH_M68K
	ArchSH          ScmpArch = C.SCMP_ARCH_SH
	ArchSHEB        ScmpArch = C.SCMP_ARCH_SHEB
)

// archNames has, of each architecture, first the name that String gives.
var archNames = []struct {
	name string
	arch ScmpArch
}{
	{"x86", ArchX86}, {"x32", ArchX32},
	{"amd64", ArchAMD64}, {"x86-64", ArchAMD64}, {"x86_64", ArchAMD64}, {"x64", ArchAMD64},
	{"arm", ArchARM}, {"arm64", ArchARM64}, {"aarch64", ArchARM64},
	{"mips", ArchMIPS}, {"mips64", ArchMIPS64}, {"mips64n32", ArchMIPS64N32},
	{"mipsel", ArchMIPSEL}, {"mipsel64", ArchMIPSEL64}, {"mipsel64n32", ArchMIPSEL64N32},
	{"ppc", ArchPPC}, {"ppc64", ArchPPC64}, {"ppc64le", ArchPPC64LE},
	{"s390", ArchS390}, {"s390x", ArchS390X}, {"parisc", ArchPARISC}, {"parisc64", ArchPARISC64},
	{"riscv64", ArchRISCV64}, {"loong64", ArchLOONGARCH64}, {"loongarch64", ArchLOONGARCH64},
	{"m68k", ArchM68K}, {"sh", ArchSH}, {"sheb", ArchSHEB},
}

const (
	ActInvalid     ScmpAction = 0xffffffff
	ActKillThread  ScmpAction = C.SCMP_ACT_KILL_THREAD
	ActKillProcess ScmpAction = C.SCMP_ACT_KILL_PROCESS
	ActTrap        ScmpAction = C.SCMP_ACT_TRAP
	ActNotify      ScmpAction = C.SCMP_ACT_NOTIFY
	ActErrno       ScmpAction = 0x00050000 // SCMP_ACT_ERRNO(0)
	ActTrace       ScmpAction = 0x7ff00000 // SCMP_ACT_TRACE(0)
	ActAllow       ScmpAction = C.SCMP_ACT_ALLOW
	ActLog         ScmpAction = C.SCMP_ACT_LOG
)

const (
	CompareInvalid      ScmpCompareOp = 0
	CompareNotEqual     ScmpCompareOp = C.SCMP_CMP_NE
	CompareLess         ScmpCompareOp = C.SCMP_CMP_LT
	CompareLessOrEqual  ScmpCompareOp = C.SCMP_CMP_LE
	CompareEqual        ScmpCompareOp = C.SCMP_CMP_EQ
	CompareGreaterEqual ScmpCompareOp = C.SCMP_CMP_GE
	CompareGreater      ScmpCompareOp = C.SCMP_CMP_GT
	CompareMaskedEqual  ScmpCompareOp = C.SCMP_CMP_MASKED_EQ
)

// GetLibraryVersion gives libseccomp's version.
func GetLibraryVersion() (major, minor, micro uint) {
	v := C.seccomp_version()
	return uint(v.major), uint(v.minor), uint(v.micro)
}

// GetAPI gives what libseccomp and the kernel can do (seccomp_api_get(3)).
func GetAPI() (uint, error) { return uint(C.seccomp_api_get()), nil }

// GetNativeArch gives the architecture of this kernel.
func GetNativeArch() (ScmpArch, error) { return ScmpArch(C.seccomp_arch_native()), nil }

// GetSyscallFromName gives a system call's native number, or a negative one of
// libseccomp's where only other architectures have it.
func GetSyscallFromName(name string) (ScmpSyscall, error) {
	return GetSyscallFromNameByArch(name, ArchNative)
}

// GetSyscallFromNameByArch gives a system call's number on an architecture.
func GetSyscallFromNameByArch(name string, arch ScmpArch) (ScmpSyscall, error) {
	s := C.CString(name)
	defer C.free(unsafe.Pointer(s))
	n := C.seccomp_syscall_resolve_name_arch(C.uint32_t(arch), s)
	if n == C.__NR_SCMP_ERROR {
		return 0, ErrSyscallDoesNotExist
	}
	return ScmpSyscall(n), nil
}

func errno(rc C.int) error { return syscall.Errno(-rc) }

// compile has libseccomp make the program.
func (f *ScmpFilter) compile() ([]byte, error) {
	ctx := C.seccomp_init(C.uint32_t(f.def))
	if ctx == nil {
		return nil, errors.New("could not create filter")
	}
	defer C.seccomp_release(ctx)
	for _, a := range f.archs {
		if rc := C.seccomp_arch_add(ctx, C.uint32_t(a)); rc != 0 && errno(rc) != syscall.EEXIST {
			return nil, fmt.Errorf("adding architecture %#x: %w", uint32(a), errno(rc))
		}
	}
	if f.optimize != 0 {
		// Without it the program is longer and does the same.
		_ = C.seccomp_attr_set(ctx, C.SCMP_FLTATR_CTL_OPTIMIZE, C.uint32_t(f.optimize))
	}
	for _, r := range f.rules {
		if err := addRule(ctx, r); err != nil {
			return nil, fmt.Errorf("adding a rule for system call %d: %w", r.call, err)
		}
	}
	return export(ctx)
}

func addRule(ctx C.scmp_filter_ctx, r rule) error {
	var conds []C.struct_scmp_arg_cmp
	for _, c := range r.conds {
		conds = append(conds, C.struct_scmp_arg_cmp{
			arg: C.uint(c.Argument), op: uint32(c.Op),
			datum_a: C.scmp_datum_t(c.Operand1), datum_b: C.scmp_datum_t(c.Operand2),
		})
	}
	rc := C.seccomp_rule_add_array(ctx, C.uint32_t(r.action), C.int(r.call), C.uint(len(conds)), unsafe.SliceData(conds))
	switch err := errno(rc); {
	case rc == 0:
		return nil
	case err == syscall.EFAULT:
		return fmt.Errorf("unrecognized syscall %#x", int32(r.call))
	case err == syscall.EINVAL:
		return errors.New("two checks on same syscall argument")
	default:
		return err
	}
}

func export(ctx C.scmp_filter_ctx) ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	type result struct {
		prog []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		prog, err := io.ReadAll(r)
		done <- result{prog, err}
	}()
	rc := C.seccomp_export_bpf(ctx, C.int(w.Fd()))
	w.Close()
	got := <-done
	if rc != 0 {
		return nil, fmt.Errorf("exporting the filter: %w", errno(rc))
	}
	return got.prog, got.err
}
