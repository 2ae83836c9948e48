package run

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseEnvFile reads docker's format of --env-file: one NAME=VALUE a line,
// nothing quoted, nothing expanded; blank lines and lines that begin with # are
// skipped; a NAME alone takes its value from lookup and is left out where that
// has none.
func ParseEnvFile(r io.Reader, lookup func(string) (string, bool)) ([]string, error) {
	var out []string
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		raw := sc.Bytes()
		if !utf8.Valid(raw) {
			return nil, fmt.Errorf("invalid utf8 bytes at line %d", n)
		}
		if n == 1 {
			raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
		}
		line := strings.TrimLeftFunc(string(raw), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		switch {
		case name == "":
			return nil, fmt.Errorf("no variable name on line '%s'", line)
		case strings.ContainsAny(name, " \t"):
			return nil, fmt.Errorf("variable '%s' contains whitespaces", name)
		case strings.ContainsRune(line, 0):
			return nil, fmt.Errorf("line %d contains a NUL byte", n)
		case ok:
			out = append(out, line)
		default:
			if v, found := lookup(name); found {
				out = append(out, name+"="+v)
			}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	return out, nil
}
