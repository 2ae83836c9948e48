// Package format prints records through the templates that docker's and
// podman's --format take: {{.Field}}, {{json .}}, {{range .List}}…{{end}},
// "table …" and the rest of Go's template language that people use with them.
//
// It is an evaluator of its own because text/template looks methods up by
// name, which makes the linker keep every exported method of every type: 6 MB
// of this binary. Fields are found by their Go name or by their JSON name, and
// there are no methods; a field of type func(string) string is one that takes
// an argument ({{.Label "key"}}).
package format

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"unicode"
)

// A List says how records of one kind are listed.
type List struct {
	Default string            // the format when none is given, usually "table …"
	Headers map[string]string // column titles by field, where they are not the field's name in capitals
	NoTitle bool              // leave the line of titles out of a table
}

// Print writes the records in a user's format: "" is the default, "json" one
// JSON object a line, "table TEMPLATE" aligned columns, separated by \t in the
// template, below their titles; anything else a template for each record, with
// a line break after it. \t and \n outside of {{}} mean tab and line break.
func (l List) Print(w io.Writer, format string, records []any) error {
	if format == "" || format == "table" {
		format = l.Default
	}
	if format == "json" {
		for _, r := range records {
			if err := writeJSON(w, r); err != nil {
				return err
			}
		}
		return nil
	}
	text, table := cutTable(format)
	t, err := Parse(text)
	if err != nil {
		return err
	}
	if !table {
		return each(w, t, records)
	}
	// docker's own spacing.
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if !l.NoTitle {
		if err := t.titles(tw, l.Headers); err != nil {
			return err
		}
	}
	if err := each(tw, t, records); err != nil {
		return err
	}
	return tw.Flush()
}

func cutTable(format string) (string, bool) {
	rest, ok := strings.CutPrefix(format, "table")
	if !ok || rest == "" || !unicode.IsSpace(rune(rest[0])) && !strings.HasPrefix(rest, `\t`) && rest[0] != '{' {
		return format, false
	}
	return strings.TrimSpace(rest), true
}

func each(w io.Writer, t *Template, records []any) error {
	for _, r := range records {
		if err := t.Execute(w, r); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
	}
	return nil
}

// Inspect writes records in full: an indented JSON array for the formats ""
// and "json", else the template for each record with a line break after it.
func Inspect(w io.Writer, format string, records []any) error {
	if format != "" && format != "json" {
		t, err := Parse(format)
		if err != nil {
			return err
		}
		return each(w, t, records)
	}
	if records == nil {
		records = []any{}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	return e.Encode(records)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// A Template is a parsed format. It is safe for use by several goroutines.
type Template struct {
	nodes []node
}

// Parse reads a template. Its errors name what they complain about, in one line.
func Parse(text string) (*Template, error) {
	p := &parser{text: text}
	nodes, err := p.parse()
	if err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	return &Template{nodes: nodes}, nil
}

// Execute writes the template for one record: a struct, a map with string
// keys, or pointers to these.
func (t *Template) Execute(w io.Writer, record any) error {
	s := &state{w: w, root: reflect.ValueOf(record)}
	if err := s.walk(t.nodes, s.root); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

// titles writes the template's line of column titles: fields stand for their
// titles, and functions leave these as they are.
func (t *Template) titles(w io.Writer, headers map[string]string) error {
	s := &state{w: w, headers: headers}
	if s.headers == nil {
		s.headers = map[string]string{}
	}
	if err := s.walk(t.nodes, reflect.ValueOf("")); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// title turns a field's name into a column title: CreatedAt is CREATED AT.
func title(field string, headers map[string]string) string {
	if h, ok := headers[field]; ok {
		return h
	}
	var b strings.Builder
	runes := []rune(field)
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) && unicode.IsLower(runes[i-1]) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}
