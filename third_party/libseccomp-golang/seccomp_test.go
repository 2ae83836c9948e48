package seccomp

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
)

func sample(t *testing.T, conds ...ScmpCondition) *ScmpFilter {
	t.Helper()
	f, err := NewFilter(ActErrno.SetReturnCode(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"read", "write", "exit_group", "personality"} {
		nr, err := GetSyscallFromName(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "personality" {
			err = f.AddRuleConditional(nr, ActAllow, conds)
		} else {
			err = f.AddRule(nr, ActAllow)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func exported(t *testing.T, f *ScmpFilter) []byte {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err = f.ExportBPF(w)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCompileIsAFunctionOfTheKey(t *testing.T) {
	a, b := sample(t), sample(t)
	if a.key() != b.key() {
		t.Error("the same rules have two keys")
	}
	prog := exported(t, a)
	if len(prog) == 0 || len(prog)%8 != 0 || !bytes.Equal(prog, exported(t, b)) {
		t.Errorf("programs of %d bytes differ", len(prog))
	}
}

func TestKeyCoversAllThatMakesTheProgram(t *testing.T) {
	seen := map[Key]string{sample(t).key(): "unchanged"}
	change := func(what string, fn func(*ScmpFilter) error) {
		f := sample(t)
		if err := fn(f); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if other, ok := seen[f.key()]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		seen[f.key()] = what
	}
	change("another default", func(f *ScmpFilter) error { f.def = ActKillProcess; return nil })
	change("another errno", func(f *ScmpFilter) error { f.def = ActErrno.SetReturnCode(38); return nil })
	change("an architecture", func(f *ScmpFilter) error { return f.AddArch(ArchARM) })
	change("the binary tree", func(f *ScmpFilter) error { return f.SetOptimize(2) })
	change("a rule more", func(f *ScmpFilter) error { return f.AddRule(1, ActAllow) })
	change("another action", func(f *ScmpFilter) error { return f.AddRule(1, ActLog) })
	for _, c := range []ScmpCondition{
		{0, CompareEqual, 1, 0}, {1, CompareEqual, 1, 0}, {0, CompareNotEqual, 1, 0}, {0, CompareEqual, 2, 0}, {0, CompareMaskedEqual, 1, 1},
	} {
		f := sample(t, c)
		if other, ok := seen[f.key()]; ok {
			t.Errorf("condition %v has the key of %s", c, other)
		}
		seen[f.key()] = "a condition"
	}
}

func TestExportGivesTheProgramOfBefore(t *testing.T) {
	defer func() { Export = nil }()
	want := exported(t, sample(t))
	var kept []byte
	compiled := 0
	Export = func(_ Key, compile func() ([]byte, error)) ([]byte, error) {
		if kept == nil {
			compiled++
			var err error
			if kept, err = compile(); err != nil {
				return nil, err
			}
		}
		return kept, nil
	}
	for range 2 {
		if got := exported(t, sample(t)); !bytes.Equal(got, want) {
			t.Error("another program")
		}
	}
	if compiled != 1 {
		t.Errorf("compiled %d times", compiled)
	}
	no := errors.New("no")
	Export = func(Key, func() ([]byte, error)) ([]byte, error) { return nil, no }
	if err := sample(t).ExportBPF(os.Stdout); !errors.Is(err, no) {
		t.Errorf("ExportBPF = %v", err)
	}
}

func TestWhatLibseccompRefusesIsAnError(t *testing.T) {
	f := sample(t)
	nr, err := GetSyscallFromName("read")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.AddRule(nr, ActErrno.SetReturnCode(1)); err == nil {
		t.Error("a rule with the default action")
	}
	f.rules = append(f.rules, rule{call: 1 << 20, action: ScmpAction(0x12340000)})
	if _, err := f.compile(); err == nil {
		t.Error("an action that does not exist")
	}
	if _, err := GetSyscallFromName("no_such_call"); !errors.Is(err, ErrSyscallDoesNotExist) {
		t.Errorf("no_such_call: %v", err)
	}
	if _, err := GetArchFromString("pdp11"); err == nil {
		t.Error("pdp11")
	}
	if _, err := MakeCondition(6, CompareEqual, 1); err == nil {
		t.Error("a seventh argument")
	}
}
