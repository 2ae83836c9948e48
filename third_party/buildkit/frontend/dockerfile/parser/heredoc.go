// Package parser takes the place of the package of this name of
// github.com/moby/buildkit, of which imagebuilder (which has a parser of its
// own) and buildah want the heredocs. The original brings protobuf, by way of
// stack traces that nobody reads here.
//
// Lost: nothing.
package parser

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Heredoc is a document within a Dockerfile: <<NAME and the lines up to NAME.
type Heredoc struct {
	Name           string
	FileDescriptor uint   // of N<<NAME
	Expand         bool   // variables; not where the name is quoted
	Chomp          bool   // tabs at the beginning of lines, for <<-NAME
	Content        string // the lines, with their ends
}

// ParseHeredoc reads a word as [N]<<[-]NAME. It gives nil for another word.
func ParseHeredoc(word string) (*Heredoc, error) {
	number := word[:len(word)-len(strings.TrimLeft(word, "0123456789"))]
	rest, ok := strings.CutPrefix(word[len(number):], "<<")
	if !ok {
		return nil, nil
	}
	h := &Heredoc{Expand: true}
	rest, h.Chomp = strings.CutPrefix(rest, "-")
	rest = strings.TrimLeft(rest, " \t\n\f\r")
	if rest == "" || strings.Contains(rest, "<") {
		return nil, nil
	}
	if number != "" {
		// What is no descriptor is none for the shell either: it reads the line.
		fd, _ := strconv.ParseUint(number, 10, 0)
		h.FileDescriptor = uint(fd)
	}
	names, err := words(rest, false)
	if err != nil || len(names) != 1 {
		return nil, err
	}
	raw, err := words(rest, true)
	if err != nil {
		return nil, err
	}
	if len(raw) != 1 {
		return nil, fmt.Errorf("the name of a heredoc is not one word: %s", rest)
	}
	h.Name = names[0]
	h.Expand = quotes(names[0]) == quotes(raw[0])
	return h, nil
}

func words(s string, raw bool) ([]string, error) {
	lex := shell.NewLex('\\')
	lex.SkipUnsetEnv, lex.RawQuotes = true, raw
	return lex.ProcessWords(s, none{})
}

func quotes(s string) int { return strings.Count(s, "'") + strings.Count(s, `"`) }

// none is an environment without variables.
type none struct{}

func (none) Get(string) (string, bool) { return "", false }
func (none) Keys() []string            { return nil }

// MustParseHeredoc is ParseHeredoc, with nil for a name that cannot be read.
func MustParseHeredoc(word string) *Heredoc {
	h, err := ParseHeredoc(word)
	if err != nil {
		return nil
	}
	return h
}

// ChompHeredocContent takes the tabs at the beginning of each line away.
func ChompHeredocContent(s string) string {
	lines := strings.SplitAfter(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimLeft(lines[i], "\t")
	}
	return strings.Join(lines, "")
}
