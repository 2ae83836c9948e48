// Package tiers guards the shape of the source: which package may import
// which, and who may touch the process.
package tiers

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/balena-os/balena/"

// tier numbers the packages: each imports only those of a lower number.
var tier = map[string]int{
	"pkg/store": 0, "pkg/durable": 0, "pkg/userns": 0, "pkg/initd": 0, "pkg/lean": 0,
	"pkg/delta": 1, "pkg/netns": 1, "pkg/runtime": 1, "pkg/monitor": 1,
	"pkg/pull": 2, "pkg/run": 2,
	"pkg/build":  3,
	"cmd/balena": 4,
}

// tierOf is the tier of the package, or of the nearest package above it.
func tierOf(pkg string) (string, int, bool) {
	for p := strings.TrimPrefix(pkg, module); p != "."; p = filepath.Dir(p) {
		if n, ok := tier[p]; ok {
			return p, n, true
		}
	}
	return "", 0, false
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"cmd/...", module+"pkg/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportsGoToLowerTiers(t *testing.T) {
	for _, p := range packages(t) {
		from, n, ok := tierOf(p.ImportPath)
		if !ok {
			t.Errorf("%s has no tier: add it to this test and to docs", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			if !strings.HasPrefix(i, module) {
				continue
			}
			to, m, ok := tierOf(i)
			if ok && to != from && m >= n {
				t.Errorf("%s (tier %d) imports %s (tier %d)", p.ImportPath, n, i, m)
			}
		}
	}
}

func TestOnlyCommandsKnowTheCommandLine(t *testing.T) {
	for _, p := range packages(t) {
		if strings.HasPrefix(p.ImportPath, module+"cmd/") {
			continue
		}
		for _, i := range p.Imports {
			if i == "flag" || strings.HasPrefix(i, "github.com/spf13/") {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}

// The process belongs to cmd: packages get streams and arguments handed to
// them, and only main ends the process.
func TestOnlyCommandsTouchTheProcess(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, top := range []string{"cmd", "pkg"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if name := process(n); name == "" {
					return true
				} else if end := name == "os.Exit" || name == "log.Fatal"; end && rel != "cmd/balena/main.go" {
					t.Errorf("%s uses %s", rel, name)
				} else if !end && !strings.HasPrefix(rel, "cmd/") {
					t.Errorf("%s uses %s", rel, name)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// process names what of the process a syntax node uses, if anything.
func process(n ast.Node) string {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	switch name := pkg.Name + "." + sel.Sel.Name; name {
	case "os.Exit", "os.Args", "os.Stdin", "os.Stdout", "os.Stderr":
		return name
	case "log.Fatal", "log.Fatalf", "log.Fatalln", "logrus.Fatal", "logrus.Fatalf":
		return "log.Fatal"
	}
	return ""
}
