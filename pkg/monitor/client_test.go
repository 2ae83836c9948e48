package monitor

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/balena-os/balena/pkg/store"
)

func TestParseDetachKeys(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-@,x": "\x00x", "ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_": "\x1b\x1c\x1d\x1e\x1f", "CTRL-A": "\x01",
	} {
		got, err := ParseDetachKeys(in)
		if err != nil || string(got) != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"ctrl-", "ctrl-1", "foo", "a,,b", "ctrl-ab", ","} {
		if _, err := ParseDetachKeys(in); !errors.Is(err, ErrDetachKeys) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestKeyScanner(t *testing.T) {
	for _, tc := range []struct {
		keys, in, out string
		found         bool
	}{
		{"\x10\x11", "hello", "hello", false},
		{"\x10\x11", "hel\x10\x11lo", "hel", true},
		{"\x10\x11", "\x10a\x10", "\x10a", false},
		{"\x10\x11", "\x10\x10\x11", "\x10", true},
		{"aab", "aaab", "a", true},
		{"aab", "aaaa", "aa", false},
		{"abab", "abaabab", "aba", true},
		{"x", "yx", "y", true},
	} {
		// In every possible division into pieces of one length.
		for size := 1; size <= len(tc.in); size++ {
			k := keyScanner{keys: []byte(tc.keys)}
			var out []byte
			found := false
			for in := []byte(tc.in); len(in) > 0 && !found; in = in[min(size, len(in)):] {
				var b []byte
				b, found = k.scan(in[:min(size, len(in))])
				out = append(out, b...)
			}
			if string(out) != tc.out || found != tc.found {
				t.Errorf("%q in %q by %d: %q %v", tc.keys, tc.in, size, out, found)
			}
		}
	}
}

func TestFrames(t *testing.T) {
	b := appendFrame(nil, frameStdout, []byte("abc"))
	b = appendFrame(b, frameEOF, nil)
	r := bytes.NewReader(b)
	if typ, p, err := readFrame(r, nil); typ != frameStdout || string(p) != "abc" || err != nil {
		t.Fatal(typ, p, err)
	}
	if typ, p, err := readFrame(r, nil); typ != frameEOF || len(p) != 0 || err != nil {
		t.Fatal(typ, p, err)
	}
	if _, _, err := readFrame(r, nil); err != io.EOF {
		t.Fatal(err)
	}
	for _, bad := range []string{"\x09\x00\x00\x00\x00\x00\x00\x00", "\x00\x01\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x7f\x00\x00\x00"} {
		if _, _, err := readFrame(strings.NewReader(bad), nil); !errors.Is(err, errFrame) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frameRequest, []byte(`{"Op":"attach"}`)), frameStdin, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			typ, p, err := readFrame(r, nil)
			if err != nil {
				return
			}
			enc := appendFrame(nil, typ, p)
			if len(enc) != headerSize+len(p) {
				t.Fatal("length")
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	b := backoff{policy: store.RestartPolicy{Name: "always"}}
	for i, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000} {
		if got, ok := b.next(0, time.Second); got != want*time.Millisecond || !ok {
			t.Errorf("%d: %v %v", i, got, ok)
		}
	}
	if got, _ := b.next(0, backoffReset); got != backoffFirst {
		t.Errorf("not reset: %v", got)
	}
	b = backoff{policy: store.RestartPolicy{Name: "on-failure", Max: 2}}
	if _, ok := b.next(0, 0); ok {
		t.Error("restarted after success")
	}
	for i, want := range []bool{true, true, false} {
		if _, ok := b.next(1, 0); ok != want {
			t.Errorf("%d: %v", i, ok)
		}
	}
	for _, name := range []string{"", "no"} {
		b = backoff{policy: store.RestartPolicy{Name: name}}
		if _, ok := b.next(1, 0); ok {
			t.Errorf("%q restarts", name)
		}
	}
}

func TestClassify(t *testing.T) {
	for msg, want := range map[string]int{
		`runc run failed: unable to start container process: exec: "foo": executable file not found in $PATH`:                                 127,
		`runc run failed: unable to start container process: error during container init: exec: "/foo": stat /foo: no such file or directory`: 127,
		`unable to start container process: error during container init: exec: "/etc/passwd": permission denied`:                              126,
		`unable to start container process: error during container init: exec /x: exec format error`:                                          126,
		`unable to start container process: error during container init: exec: "/tmp": is a directory`:                                        126,
		`executable file ` + "`foo`" + ` not found in $PATH: No such file or directory`:                                                       127,
		"open executable: Permission denied": 126,
		`error mounting "/nonesuch" to rootfs at "/x": mount src=/nonesuch, dst=/x, flags=MS_BIND|MS_REC: no such file or directory`: 125,
		`container with given ID already exists`: 125,
	} {
		if got := classify(msg); got != want {
			t.Errorf("%s: %d, not %d", msg, got, want)
		}
	}
}

func TestLongSocketPath(t *testing.T) {
	dir := t.TempDir()
	for range 4 {
		dir += "/" + strings.Repeat("long", 10)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go (&monitor{}).serve(l)
	if err := tell(t.Context(), dir, request{Op: opPing}); err != nil {
		t.Fatal(err)
	}
	if err := tell(t.Context(), dir, request{Op: "nonesuch"}); err == nil {
		t.Fatal("no error")
	}
}
