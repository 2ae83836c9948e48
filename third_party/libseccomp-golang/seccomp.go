// Package seccomp takes the place of github.com/seccomp/libseccomp-golang, as
// far as libcontainer, containers/common and buildah call it. A filter notes what is
// asked of it, and libseccomp compiles it only when it is exported. What was
// noted is all that the program depends on, so its digest names the program,
// and Export can give the same program as before: compiling the default profile
// takes libseccomp 12 ms, at each start of a container and each exec.
//
// Lost: what nobody here calls (notifications, reading rules
// back). An error in a rule is reported by ExportBPF, not by AddRule.
package seccomp

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

type (
	ScmpArch      uint32 // libseccomp's number of an architecture
	ScmpAction    uint32 // libseccomp's number of an action, with its return code
	ScmpCompareOp int32  // libseccomp's number of a comparison
	ScmpSyscall   int32
)

// ScmpCondition is a condition on one argument of a system call.
type ScmpCondition struct {
	Argument           uint
	Op                 ScmpCompareOp
	Operand1, Operand2 uint64
}

// ErrSyscallDoesNotExist says that libseccomp does not know a name.
var ErrSyscallDoesNotExist = errors.New("could not resolve syscall name")

// VersionError says that libseccomp or the kernel is too old.
type VersionError struct {
	op     string
	minAPI uint
}

func (e *VersionError) Error() string {
	api, _ := GetAPI()
	return fmt.Sprintf("%s requires libseccomp API level %d (this is level %d)", e.op, e.minAPI, api)
}

func checkAPI(op string, level uint) error {
	if api, _ := GetAPI(); api < level {
		return &VersionError{op, level}
	}
	return nil
}

// GetArchFromString gives the architecture of a name.
func GetArchFromString(name string) (ScmpArch, error) {
	name = strings.ToLower(name)
	for _, a := range archNames {
		if a.name == name {
			return a.arch, nil
		}
	}
	return ArchInvalid, fmt.Errorf("cannot convert unrecognized string %q", name)
}

// String gives Go's name of the architecture, where it has one.
func (a ScmpArch) String() string {
	for _, n := range archNames {
		if n.arch == a {
			return n.name
		}
	}
	if a == ArchNative {
		return "native"
	}
	return "Invalid architecture"
}

// SetReturnCode gives ActErrno and ActTrace with a code, and others unchanged.
func (a ScmpAction) SetReturnCode(code int16) ScmpAction {
	if base := a &^ 0xffff; base == ActErrno || base == ActTrace {
		return base | ScmpAction(uint16(code))
	}
	return a
}

// MakeCondition checks and makes a condition. The second value is for
// CompareMaskedEqual, whose first is the mask.
func MakeCondition(arg uint, op ScmpCompareOp, values ...uint64) (ScmpCondition, error) {
	switch {
	case op < CompareNotEqual || op > CompareMaskedEqual:
		return ScmpCondition{}, fmt.Errorf("unrecognized comparison operator %#x", uint32(op))
	case arg > 5:
		return ScmpCondition{}, fmt.Errorf("syscalls only have up to 6 arguments (%d given)", arg)
	case len(values) == 0 || len(values) > 2:
		return ScmpCondition{}, fmt.Errorf("conditions have one or two values (%d given)", len(values))
	}
	c := ScmpCondition{Argument: arg, Op: op, Operand1: values[0]}
	if len(values) == 2 {
		c.Operand2 = values[1]
	}
	return c, nil
}

// ScmpFilter is a filter to be compiled. It is for one goroutine.
type ScmpFilter struct {
	def      ScmpAction
	archs    []ScmpArch
	optimize int
	rules    []rule

	noNewPrivs, log, ssb, waitKill bool
}

type rule struct {
	call   ScmpSyscall
	action ScmpAction
	conds  []ScmpCondition
}

// NewFilter makes a filter for the native architecture.
func NewFilter(def ScmpAction) (*ScmpFilter, error) {
	if def == ActInvalid {
		return nil, fmt.Errorf("unrecognized action %#x", uint32(def))
	}
	return &ScmpFilter{def: def, noNewPrivs: true}, nil
}

// AddArch adds an architecture, if it is not there yet.
func (f *ScmpFilter) AddArch(a ScmpArch) error {
	if a == ArchInvalid {
		return fmt.Errorf("unrecognized architecture %#x", uint32(a))
	}
	f.archs = append(f.archs, a)
	return nil
}

// AddRule adds a rule for all calls of a system call.
func (f *ScmpFilter) AddRule(call ScmpSyscall, action ScmpAction) error {
	return f.AddRuleConditional(call, action, nil)
}

// AddRuleConditional adds a rule for calls that meet all conditions.
func (f *ScmpFilter) AddRuleConditional(call ScmpSyscall, action ScmpAction, conds []ScmpCondition) error {
	if action == ActInvalid {
		return fmt.Errorf("unrecognized action %#x", uint32(action))
	}
	if action == f.def {
		return errors.New("requested action matches default action of filter")
	}
	f.rules = append(f.rules, rule{call, action, conds})
	return nil
}

// SetOptimize sets how libseccomp arranges the rules; 2 is a binary tree.
func (f *ScmpFilter) SetOptimize(level int) error {
	f.optimize = level
	return checkAPI("SetOptimize", 4)
}

// The following do not change the program: they are for whoever loads it.

func (f *ScmpFilter) SetNoNewPrivsBit(v bool) error { f.noNewPrivs = v; return nil }
func (f *ScmpFilter) SetLogBit(v bool) error        { f.log = v; return checkAPI("SetLogBit", 3) }
func (f *ScmpFilter) SetSSB(v bool) error           { f.ssb = v; return checkAPI("SetSSB", 4) }
func (f *ScmpFilter) SetWaitKill(v bool) error      { f.waitKill = v; return checkAPI("SetWaitKill", 7) }

func (f *ScmpFilter) GetNoNewPrivsBit() (bool, error) { return f.noNewPrivs, nil }
func (f *ScmpFilter) GetLogBit() (bool, error)        { return f.log, nil }
func (f *ScmpFilter) GetSSB() (bool, error)           { return f.ssb, nil }
func (f *ScmpFilter) GetWaitKill() (bool, error)      { return f.waitKill, nil }

// Key names a program: it is the digest of everything that libseccomp makes it
// of, and of libseccomp's version and what it found the kernel able to do.
type Key [sha256.Size]byte

// Export, if set, is asked by ExportBPF for the program of a filter. It may
// call compile, or give what compile gave before for the same key (which holds
// for this binary only: a distribution patches libseccomp without a new
// version). Its error is ExportBPF's.
var Export func(key Key, compile func() ([]byte, error)) ([]byte, error)

// ExportBPF writes the program, an array of struct sock_filter.
func (f *ScmpFilter) ExportBPF(to *os.File) error {
	var prog []byte
	var err error
	if Export != nil {
		prog, err = Export(f.key(), f.compile)
	} else {
		prog, err = f.compile()
	}
	if err != nil {
		return err
	}
	_, err = to.Write(prog)
	return err
}

func (f *ScmpFilter) key() Key {
	major, minor, micro := GetLibraryVersion()
	api, _ := GetAPI()
	native, _ := GetNativeArch()
	var b []byte
	add := func(values ...uint64) {
		for _, v := range values {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
	}
	add(uint64(major), uint64(minor), uint64(micro), uint64(api), uint64(native), uint64(f.def), uint64(f.optimize))
	add(uint64(len(f.archs)))
	for _, a := range f.archs {
		add(uint64(a))
	}
	add(uint64(len(f.rules)))
	for _, r := range f.rules {
		add(uint64(r.call), uint64(r.action), uint64(len(r.conds)))
		for _, c := range r.conds {
			add(uint64(c.Argument), uint64(c.Op), c.Operand1, c.Operand2)
		}
	}
	return sha256.Sum256(b)
}
