package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const program = `package main

import "fmt"

func main() { fmt.Println("hello") }
`

func build(t *testing.T, dir string, flags ...string) string {
	t.Helper()
	src := filepath.Join(dir, "hello.go")
	if err := os.WriteFile(src, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "hello")
	cmd := exec.Command("go", append(append([]string{"build", "-o", bin}, flags...), src)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// The packages and the rest add up to the file, but for headers and padding;
// a stripped binary tells the same of its packages.
func TestPackages(t *testing.T) {
	stripped, err := load(build(t, t.TempDir(), "-ldflags=-s -w"))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for name, n := range stripped {
		if n < 0 {
			t.Errorf("%s: %d bytes", name, n)
		}
		if name != "total" {
			sum += n
		}
	}
	if missing := stripped["total"] - sum; missing < 0 || missing > 32<<10 {
		t.Errorf("the parts are %d bytes, the file %d", sum, stripped["total"])
	}
	if stripped["runtime"] < 100_000 || stripped["fmt"] < 10_000 || stripped["main"] == 0 {
		t.Errorf("runtime %d, fmt %d, main %d bytes", stripped["runtime"], stripped["fmt"], stripped["main"])
	}
	whole, err := load(build(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if whole["fmt"] != stripped["fmt"] || whole["total"] <= stripped["total"] {
		t.Errorf("stripped: fmt %d, total %d; whole: %d, %d", stripped["fmt"], stripped["total"], whole["fmt"], whole["total"])
	}
}

func TestBudget(t *testing.T) {
	bin := build(t, t.TempDir())
	check := func(limit string) (int, string) {
		var table, stderr bytes.Buffer
		if code := realMain([]string{"binsize", "-record", limit, bin}, &table, &stderr); code != 0 {
			t.Fatal(stderr.String())
		}
		file := filepath.Join(t.TempDir(), "budget")
		grown := strings.Replace(table.String(), " fmt\n", "000 fmt\n", 1)
		if err := os.WriteFile(file, []byte(grown), 0o600); err != nil {
			t.Fatal(err)
		}
		return realMain([]string{"binsize", "-budget", file, bin}, &bytes.Buffer{}, &stderr), stderr.String()
	}
	if code, out := check("100000000"); code != 0 {
		t.Errorf("below the limit: %d\n%s", code, out)
	}
	if code, out := check("1000000"); code != 1 || !strings.Contains(out, "  fmt\n") || !strings.Contains(out, "past the limit") {
		t.Errorf("past the limit: %d\n%s", code, out)
	}
}
