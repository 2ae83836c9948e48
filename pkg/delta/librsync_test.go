package delta

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/balena-os/librsync-go"
)

// rs writes a librsync delta by hand: numbers of a given width, and bytes.
func rs(parts ...any) []byte {
	b := binary.BigEndian.AppendUint32(nil, librsyncMagic)
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string:
			b = append(b, p...)
		}
	}
	return b
}

func patch(delta []byte, base string) (string, error) {
	r := NewLibrsyncReader(bytes.NewReader(delta), strings.NewReader(base), int64(len(base)))
	out, err := io.ReadAll(r)
	return string(out), err
}

func TestLibrsyncCommands(t *testing.T) {
	const base = "0123456789"
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		name  string
		delta []byte
		want  string
	}{
		{"nothing", rs(0), ""},
		{"short literal", rs(3, "abc", 0), "abc"},
		{"longest short literal", rs(64, long[:64], 0), long[:64]},
		{"literal of each width", rs(0x41, 1, "a", 0x42, uint16(300), long, 0x43, uint32(1), "b", 0x44, uint64(1), "c", 0), "a" + long + "bc"},
		{"copies", rs(0x45, 3, 2, 0x46, 0, uint16(1), 0x47, 0, uint32(1), 0x48, 0, uint64(1), 0x49, uint16(9), 1, 0x54, uint64(0), uint64(10), 0), "340009" + base},
		{"copy of nothing at the end", rs(0x45, 10, 0, 0), ""},
		{"what follows the end", rs(1, "a", 0, 0xff), "a"},
	} {
		if got, err := patch(c.delta, base); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestLibrsyncDamage(t *testing.T) {
	const base = "0123456789"
	for name, delta := range map[string][]byte{
		"empty":                   {},
		"half a magic":            rs()[:3],
		"another magic":           {0x72, 0x73, 0x01, 0x37, 0},
		"no end":                  rs(1, "a"),
		"literal that is cut off": rs(5, "ab"),
		"number that is cut off":  rs(0x43, uint16(1)),
		"huge literal":            rs(0x44, uint64(math.MaxUint64), "ab", 0),
		"copy past the end":       rs(0x45, 5, 6, 0),
		"copy from past the end":  rs(0x45, 11, 0, 0),
		"place that wraps":        rs(0x54, uint64(math.MaxUint64), uint64(2), 0),
		"length that wraps":       rs(0x54, uint64(1), uint64(math.MaxUint64), 0),
		"sum that wraps":          rs(0x54, uint64(math.MaxInt64), uint64(math.MaxInt64), 0),
		"reserved command":        rs(0x55, 0),
		"last command":            rs(0xff, 0),
	} {
		if got, err := patch(delta, base); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// A base that is shorter than it says is at fault itself.
	r := NewLibrsyncReader(bytes.NewReader(rs(0x45, 5, 10, 0)), strings.NewReader(base), 20)
	if _, err := io.ReadAll(r); !errors.Is(err, ErrBase) {
		t.Errorf("short base: %v", err)
	}
	broken := errors.New("broken")
	r = NewLibrsyncReader(iotest.ErrReader(broken), strings.NewReader(base), 10)
	if _, err := io.ReadAll(r); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
		t.Errorf("delta that cannot be read: %v", err)
	}
}

func TestLibrsyncPiecemeal(t *testing.T) {
	delta := rs(2, "ab", 0x45, 3, 4, 1, "c", 0)
	base := strings.NewReader("0123456789")
	if err := iotest.TestReader(NewLibrsyncReader(iotest.OneByteReader(bytes.NewReader(delta)), base, 10), []byte("ab3456c")); err != nil {
		t.Error(err)
	}
}

func makeLibrsync(t testing.TB, base, target []byte) []byte {
	t.Helper()
	sums, err := NewLibrsyncBase(context.Background(), bytes.NewReader(base))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := sums.Delta(context.Background(), iotest.HalfReader(bytes.NewReader(target)), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// librsyncPairs are bases and targets that stress a maker.
func librsyncPairs(t testing.TB) [][2][]byte {
	g := newGenerator(21)
	files := g.image(20)
	base := pack(t, files)
	zeros := make([]byte, 700<<10)
	pairs := [][2][]byte{
		{nil, nil}, {nil, base}, {base, nil}, {base, base}, {zeros, zeros}, {zeros[:511], zeros[:511]},
		{base, base[1 : len(base)-1]}, {base, append([]byte("new"), base...)}, {base, append(bytes.Clone(base), base...)},
		{append(bytes.Clone(zeros), base...), append(bytes.Clone(base), zeros...)},
	}
	for range 10 {
		next := g.change(files)
		pairs = append(pairs, [2][]byte{pack(t, files), pack(t, next)})
		files = next
	}
	return pairs
}

// What we make, balena-engine's library and librsync itself apply.
func TestLibrsyncMadeHere(t *testing.T) {
	for i, p := range librsyncPairs(t) {
		d := makeLibrsync(t, p[0], p[1])
		if !bytes.Equal(d, makeLibrsync(t, p[0], p[1])) {
			t.Errorf("%d: made otherwise a second time", i)
		}
		if got, err := patch(d, string(p[0])); err != nil || got != string(p[1]) {
			t.Errorf("%d: applied here: %v", i, err)
		}
		var out bytes.Buffer
		if err := librsync.Patch(bytes.NewReader(p[0]), bytes.NewReader(d), &out); err != nil || !bytes.Equal(out.Bytes(), p[1]) {
			t.Errorf("%d: applied by librsync-go: %v", i, err)
		}
		if _, err := exec.LookPath("rdiff"); err == nil {
			if got := rdiff(t, "patch", p[0], d); !bytes.Equal(got, p[1]) {
				t.Errorf("%d: applied by rdiff: differs", i)
			}
		}
	}
}

// What balena-engine's library and librsync itself make, we apply.
func TestLibrsyncMadeElsewhere(t *testing.T) {
	for i, p := range librsyncPairs(t) {
		sig, err := librsync.Signature(bytes.NewReader(p[0]), io.Discard, rsBlock, 32, librsync.BLAKE2_SIG_MAGIC)
		if err != nil {
			t.Fatal(err)
		}
		var theirs bytes.Buffer
		if err := librsync.Delta(sig, bytes.NewReader(p[1]), &theirs); err != nil {
			t.Fatal(err)
		}
		if got, err := patch(theirs.Bytes(), string(p[0])); err != nil || got != string(p[1]) {
			t.Errorf("%d: librsync-go's: %v", i, err)
		}
		ours := makeLibrsync(t, p[0], p[1])
		if len(ours) > theirs.Len()+theirs.Len()/50+64 {
			t.Errorf("%d: ours has %d bytes, librsync-go's %d", i, len(ours), theirs.Len())
		}
		if _, err := exec.LookPath("rdiff"); err == nil {
			if got, err := patch(rdiffDelta(t, p[0], p[1]), string(p[0])); err != nil || got != string(p[1]) {
				t.Errorf("%d: rdiff's: %v", i, err)
			}
		}
	}
}

// rdiff runs "rdiff VERB A B OUT" and returns what it wrote.
func rdiff(t testing.TB, verb string, a, b []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"a": a, "b": b} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, "rdiff", verb, "a", "b", "out")
	out, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rdiffDelta makes a delta with balena-engine's parameters.
func rdiffDelta(t testing.TB, base, target []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "base"), base, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "rdiff", "-b", "512", "-H", "blake2", "-S", "32", "signature", "base", "sig")
	sig, err := os.ReadFile(filepath.Join(dir, "sig"))
	if err != nil {
		t.Fatal(err)
	}
	return rdiff(t, "delta", sig, target)
}

func run(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// FuzzLibrsync: no delta makes the reader panic, read outside of the base or
// disagree with balena-engine's library about one that is in order.
func FuzzLibrsync(f *testing.F) {
	base := strings.Repeat("0123456789", 300)
	f.Add(rs(0))
	f.Add(rs(3, "abc", 0x45, 3, 2, 0x49, uint16(2000), 100, 0))
	f.Add(rs(0x54, uint64(10), uint64(500), 0x43, uint32(2), "ab", 0))
	f.Add(makeLibrsync(f, []byte(base), []byte(base[:1500]+"new"+base[1000:])))
	f.Fuzz(func(t *testing.T, delta []byte) {
		const limit = 1 << 20
		r := NewLibrsyncReader(bytes.NewReader(delta), &strictReaderAt{t, base}, int64(len(base)))
		out, err := io.ReadAll(io.LimitReader(r, limit))
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("neither right nor the delta's fault: %v", err)
		}
		if err != nil || len(out) == limit {
			return
		}
		var theirs bytes.Buffer
		if err := librsync.Patch(strings.NewReader(base), bytes.NewReader(delta), &theirs); err != nil || !bytes.Equal(theirs.Bytes(), out) {
			t.Fatalf("librsync-go makes something else: %v", err)
		}
	})
}

// strictReaderAt fails the test when it is read outside of its bounds.
type strictReaderAt struct {
	t *testing.T
	s string
}

func (r *strictReaderAt) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(r.s)) {
		r.t.Errorf("%d bytes at %d", len(p), at)
	}
	return strings.NewReader(r.s).ReadAt(p, at)
}

// FuzzLibrsyncMake: whatever base and target are, the target comes back.
func FuzzLibrsyncMake(f *testing.F) {
	text := []byte(strings.Repeat("0123456789", 200))
	f.Add(text, append([]byte("new"), text...))
	f.Add(make([]byte, 1024), make([]byte, 1600))
	f.Fuzz(func(t *testing.T, base, target []byte) {
		if got, err := patch(makeLibrsync(t, base, target), string(base)); err != nil || got != string(target) {
			t.Fatal(err)
		}
	})
}
