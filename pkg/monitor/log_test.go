package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func testLog(t testing.TB, size int64, files int) (*logWriter, string) {
	t.Helper()
	dir := t.TempDir()
	l, err := openLog(LogConfig{Path: LogPath(dir, "x"), MaxSize: size, MaxFile: files})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l, dir
}

// readBack gives the two streams' bytes and the number of records.
func readBack(t testing.TB, dir string, o LogOptions) (stdout, stderr []byte, n int) {
	t.Helper()
	if err := ReadLogs(context.Background(), dir, "x", o, func(l Line) error {
		n++
		if l.Stderr {
			stderr = append(stderr, l.Data...)
		} else {
			stdout = append(stdout, l.Data...)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return stdout, stderr, n
}

func TestLogRecord(t *testing.T) {
	l, dir := testLog(t, 0, 0)
	l.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.FixedZone("x", 3600)) }
	l.write(frameStdout, []byte("a<b>\t\"q\"\\ \x01 é \u2028\n"))
	l.write(frameStderr, []byte("\xff\n"))
	raw, err := os.ReadFile(LogPath(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"log":"a\u003cb\u003e\t\"q\"\\ \u0001 é \u2028\n","stream":"stdout","time":"2026-01-02T02:04:05.6789Z"}` + "\n" +
		`{"log":"\ufffd\n","stream":"stderr","time":"2026-01-02T02:04:05.6789Z","b64":"/wo="}` + "\n"
	if string(raw) != want {
		t.Fatalf("%s\nnot\n%s", raw, want)
	}
}

func TestLogPartialLines(t *testing.T) {
	l, dir := testLog(t, 0, 0)
	long := strings.Repeat("é", 20000) // 40000 bytes, cut between characters
	l.write(frameStdout, []byte("be"))
	l.write(frameStderr, []byte("other\n"))
	l.write(frameStdout, []byte("gin\n"+long+"\nend"))
	exact := strings.Repeat("x", maxLine) + "\n"
	l.write(frameStdout, []byte("\n"+exact))
	l.write(frameStdout, []byte("no newline"))
	l.flush(frameStdout)
	stdout, stderr, n := readBack(t, dir, LogOptions{})
	if string(stdout) != "begin\n"+long+"\nend\n"+exact+"no newline" || string(stderr) != "other\n" {
		t.Fatal("the bytes differ")
	}
	if n != 1+1+3+1+1+1 {
		t.Errorf("%d records", n)
	}
	raw, _ := os.ReadFile(LogPath(dir, "x"))
	if bytes.Contains(raw, []byte("b64")) || !utf8.Valid(raw) {
		t.Error("a character was cut in two")
	}
}

func TestLogExactBytesAcrossRotation(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	l, dir := testLog(t, 256<<10, 150)
	var want [2][]byte
	for range 2000 {
		b := make([]byte, rnd.IntN(3000))
		for i := range b {
			switch b[i] = byte(rnd.Uint32()); {
			case rnd.IntN(20) == 0:
				b[i] = '\n'
			case rnd.IntN(3) > 0:
				b[i] = 'a' + b[i]%26
			}
		}
		s := rnd.IntN(2)
		want[s] = append(want[s], b...)
		l.write(frameStdout+frameType(s), b)
	}
	l.flush(frameStdout)
	l.flush(frameStderr)
	stdout, stderr, _ := readBack(t, dir, LogOptions{})
	if !bytes.Equal(stdout, want[0]) || !bytes.Equal(stderr, want[1]) {
		t.Fatal("the bytes differ")
	}
	files, _ := filepath.Glob(dir + "/*")
	if len(files) < 10 {
		t.Fatalf("not rotated: %q", files)
	}
	for _, f := range files {
		if st, _ := os.Stat(f); st.Size() > 256<<10 {
			t.Errorf("%s has %d bytes", f, st.Size())
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	for _, files := range []int{1, 2, 3} {
		l, dir := testLog(t, 10000, files)
		for i := range 5000 {
			l.write(frameStdout, fmt.Appendf(nil, "line %d\n", i))
		}
		names, _ := filepath.Glob(dir + "/*")
		if len(names) != files {
			t.Errorf("%d files: %q", files, names)
		}
		stdout, _, _ := readBack(t, dir, LogOptions{})
		if !bytes.HasSuffix(stdout, []byte("line 4998\nline 4999\n")) {
			t.Errorf("%d files: the end is missing: %q", files, stdout[max(0, len(stdout)-40):])
		}
	}
}

func TestLogTail(t *testing.T) {
	l, dir := testLog(t, 3000, 50)
	var lines []string
	for i := range 500 {
		lines = append(lines, fmt.Sprintf("line %d \\n\n", i))
		l.write(frameStdout, []byte(lines[i]))
	}
	for _, n := range []int{1, 2, 10, 99, 499, 500, 600} {
		got, _, _ := readBack(t, dir, LogOptions{Tail: n})
		if want := strings.Join(lines[max(0, 500-n):], ""); string(got) != want {
			t.Errorf("tail %d: %d bytes, not %d", n, len(got), len(want))
		}
	}
	if got, _, _ := readBack(t, dir, LogOptions{Tail: -1}); len(got) > 0 {
		t.Errorf("%q", got)
	}
	l.write(frameStdout, []byte("unfinished"))
	l.flush(frameStdout)
	if got, _, _ := readBack(t, dir, LogOptions{Tail: 1}); string(got) != "unfinished" {
		t.Errorf("%q", got)
	}
	l.write(frameStdout, []byte(strings.Repeat("y", 200000)+"\n"))
	if got, _, _ := readBack(t, dir, LogOptions{Tail: 1}); len(got) != len("unfinished")+200001 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestLogSinceUntil(t *testing.T) {
	l, dir := testLog(t, 0, 0)
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 10 {
		l.now = func() time.Time { return base.Add(time.Duration(i) * time.Second) }
		l.write(frameStdout, fmt.Appendf(nil, "%d\n", i))
	}
	got, _, _ := readBack(t, dir, LogOptions{Since: base.Add(3 * time.Second), Until: base.Add(5 * time.Second)})
	if string(got) != "3\n4\n5\n" {
		t.Fatalf("%q", got)
	}
}

func TestLogFollowAcrossRotation(t *testing.T) {
	l, dir := testLog(t, 20000, 4)
	run := t.TempDir()
	ln, err := listen(run)
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{log: l}
	go m.serve(ln)
	got := make(chan string, 1)
	first := make(chan struct{})
	go func() {
		var b strings.Builder
		if err := ReadLogs(context.Background(), dir, "x", LogOptions{Follow: true, RunDir: run}, func(l Line) error {
			if b.Len() == 0 {
				close(first)
			}
			b.Write(l.Data)
			return nil
		}); err != nil {
			t.Error(err)
		}
		got <- b.String()
	}()
	var want strings.Builder
	for i := range 3000 {
		s := fmt.Sprintf("some line %d\n", i)
		want.WriteString(s)
		l.write(frameStdout, []byte(s))
		if i == 0 {
			<-first
		}
		if i%50 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	m.clients.finish(Exit{})
	ln.Close()
	if s := <-got; s != want.String() {
		t.Fatalf("%d bytes, not %d", len(s), want.Len())
	}
}

func TestLogDamaged(t *testing.T) {
	dir := t.TempDir()
	half := `{"log":"lost`
	if err := os.WriteFile(LogPath(dir, "x"), []byte(half), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(LogConfig{Path: LogPath(dir, "x")})
	if err != nil {
		t.Fatal(err)
	}
	l.write(frameStdout, []byte("kept\n"))
	l.close()
	f, _ := os.OpenFile(LogPath(dir, "x"), os.O_APPEND|os.O_WRONLY, 0)
	_, _ = f.Write(make([]byte, 5000)) // what a power cut leaves of unwritten blocks
	f.Close()
	if l, err = openLog(LogConfig{Path: LogPath(dir, "x")}); err != nil {
		t.Fatal(err)
	}
	l.write(frameStdout, []byte("also kept\n"))
	l.close()
	if got, _, _ := readBack(t, dir, LogOptions{}); string(got) != "kept\nalso kept\n" {
		t.Fatalf("%q", got)
	}
}

func TestNoLog(t *testing.T) {
	if got, _, _ := readBack(t, t.TempDir(), LogOptions{Tail: 5}); len(got) > 0 {
		t.Fatalf("%q", got)
	}
	if l, err := openLog(LogConfig{Driver: "none"}); l != nil || err != nil {
		t.Fatal(l, err)
	}
	if _, err := openLog(LogConfig{Driver: "syslog"}); err == nil {
		t.Fatal("no error")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("hello\n"), []byte(`{"log":"x","stream":"stdout","time":"2026-01-02T02:04:05.6789Z"}`))
	f.Add([]byte("\xff\xfe\x00\u2029<>&\\\""), []byte("{"))
	f.Fuzz(func(t *testing.T, data, rec []byte) {
		parseRecord(rec) // must not panic
		enc := appendRecord(nil, frameStderr, time.Now(), bytes.Clone(data), nil)
		if bytes.IndexByte(enc, '\n') != len(enc)-1 {
			t.Fatalf("not one line: %q", enc)
		}
		l, ok := parseRecord(enc[:len(enc)-1])
		if !ok || !l.Stderr || !bytes.Equal(l.Data, data) {
			t.Fatalf("%q came back as %q %v from %s", data, l.Data, ok, enc)
		}
		var docker struct{ Log string }
		if err := json.Unmarshal(enc, &docker); err != nil || utf8.Valid(data) && docker.Log != string(data) {
			t.Fatalf("docker would read %q (%v)", docker.Log, err)
		}
		if want := bytes.HasSuffix(data, []byte("\n")); endsLine(enc) != want {
			t.Fatalf("endsLine(%s) is not %v", enc, want)
		}
	})
}

func FuzzLogReader(f *testing.F) {
	f.Add([]byte("{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T02:04:05.6789Z\"}\n\x00\x00\n{"), 1)
	f.Fuzz(func(t *testing.T, file []byte, tail int) {
		dir := t.TempDir()
		if err := os.WriteFile(LogPath(dir, "x"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = ReadLogs(context.Background(), dir, "x", LogOptions{Tail: tail}, func(Line) error { return nil })
	})
}
