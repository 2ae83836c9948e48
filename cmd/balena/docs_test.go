package main

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var (
	inlineCommand = regexp.MustCompile("`(?:[A-Z_]+=\\S+ )?balena ([^`]*)`")
	longFlag      = regexp.MustCompile(`^--[a-z][a-z-]*`)
)

// What the documents say in passing of commands and their flags exists.
func TestDocumentedFlags(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range inlineCommand.FindAllStringSubmatch(string(text), -1) {
			seen++
			checkMention(t, file, m[1])
		}
	}
	if seen < 20 {
		t.Errorf("%d commands in %d documents: are they looked for in the right place?", seen, len(files))
	}
}

// checkMention looks the command and the long flags of a mention up, as
// "image delta --push …"; another stage's name, as in "balena balena-runc", is none.
func checkMention(t *testing.T, file, mention string) {
	args := words(mention)
	if len(args) == 0 || strings.HasPrefix(args[0], "balena") || strings.HasPrefix(args[0], "completion") || args[0] == "…" || args[0] == "COMMAND" {
		return
	}
	cmd, _, err := newRootCmd(&env{}).Find(args)
	if err != nil || !cmd.HasParent() {
		t.Errorf("%s: `balena %s`: no such command", file, mention)
		return
	}
	for _, a := range args {
		if f := longFlag.FindString(a); f != "" && !hasFlag(cmd, f) {
			t.Errorf("%s: `balena %s`: no flag %s", file, mention, f)
		}
	}
}

func hasFlag(cmd *cobra.Command, long string) bool {
	name := strings.TrimPrefix(long, "--")
	return cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
}

// docs/run-options.md has each flag of run, and no other.
func TestRunOptionsDocument(t *testing.T) {
	const file = "../../docs/run-options.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd, _, err := newRootCmd(&env{}).Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		column, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, f := range regexp.MustCompile("`(--[a-z][a-z-]*[*]?)").FindAllStringSubmatch(column, -1) {
			said[f[1]] = true
			if !strings.HasSuffix(f[1], "*") && !hasFlag(cmd, f[1]) {
				t.Errorf("%s: run has no flag %s", file, f[1])
			}
		}
	}
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		family, _, _ := strings.Cut(f.Name, "-")
		if long := "--" + f.Name; f.Name != "help" && !f.Hidden && !said[long] && !said["--"+family+"-*"] && !strings.Contains(string(text), "`"+long) && f.Shorthand == "" {
			t.Errorf("%s says nothing of %s", file, long)
		}
	})
}

// docs/size.md tells of each replaced module and each build tag what it costs.
func TestSizeDocument(t *testing.T) {
	text := func(file string) string {
		b, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	doc := text("docs/size.md")
	names := regexp.MustCompile(`(?m)^\t(\S+) => \./third_party/`).FindAllStringSubmatch(text("go.mod"), -1)
	tags := regexp.MustCompile(`(?m)^TAGS := (.*)$`).FindStringSubmatch(text("Makefile"))
	if len(names) < 10 || tags == nil {
		t.Fatalf("%d replacements, tags %v: are they looked for in the right place?", len(names), tags)
	}
	for _, n := range names {
		if name := path.Base(regexp.MustCompile(`/v\d+$`).ReplaceAllString(n[1], "")); !strings.Contains(doc, name) {
			t.Errorf("docs/size.md does not say what replacing %s costs", n[1])
		}
	}
	for tag := range strings.SplitSeq(tags[1], ",") {
		if !strings.Contains(doc, "`"+tag+"`") {
			t.Errorf("docs/size.md does not say what the tag %s costs", tag)
		}
	}
}

// docs/README.md leads to each document.
func TestDocumentIndex(t *testing.T) {
	index, err := os.ReadFile("../../docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"*.md", "design/*.md"} {
		found, err := filepath.Glob("../../docs/" + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("no documents in docs/%s: %v", pattern, err)
		}
		for _, f := range found {
			f = strings.TrimPrefix(f, "../../docs/")
			if f != "README.md" && !strings.Contains(string(index), "("+f+")") {
				t.Errorf("docs/README.md does not lead to %s", f)
			}
		}
	}
}
