package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Each command's help and man page has an example, whose words and flags the
// command takes.
func TestExamples(t *testing.T) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
				visit(c)
			}
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		example := strings.ReplaceAll(cmd.Example, "\\\n", " ")
		for line := range strings.Lines(example) {
			checkExample(t, cmd, strings.TrimSpace(line))
		}
	}
	visit(newRootCmd(&env{}))
}

// checkExample parses what follows "balena" in an example, up to a pipe or a
// redirection, with a command tree of its own, since flags keep their values.
func checkExample(t *testing.T, cmd *cobra.Command, line string) {
	_, rest, found := strings.Cut(line, "balena ")
	if !found || strings.HasPrefix(line, "#") {
		return
	}
	var args []string
	for _, w := range words(rest) {
		if w == "|" || w == "||" || w == "&&" || w == "#" || w[0] == '<' || w[0] == '>' {
			break
		}
		args = append(args, w)
	}
	c, left, err := newRootCmd(&env{}).Find(args)
	if err == nil {
		err = c.ParseFlags(left)
	}
	if err == nil {
		err = c.ValidateArgs(c.Flags().Args())
	}
	if err != nil {
		t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
	}
}

// words splits as a shell does, as far as quotes go.
func words(line string) []string {
	var out []string
	var word strings.Builder
	var quote rune
	inside := false
	for _, r := range line + " " {
		switch {
		case quote == 0 && (r == '\'' || r == '"'):
			quote, inside = r, true
		case r == quote:
			quote = 0
		case quote == 0 && r == ' ':
			if inside && word.Len() > 0 {
				out = append(out, word.String())
			}
			word.Reset()
			inside = false
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	return out
}
