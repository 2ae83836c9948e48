// Package yaml takes the place of go.yaml.in/yaml/v3, with which
// containers/image reads the files in registries.d (and OpenShift's
// configuration, for a transport that balena does not have).
//
// What such files are written in is read: mappings by indentation, plain and
// quoted scalars on one line, comments. Lost: the rest of YAML (sequences, flow
// style but {}, block scalars, anchors, tags, several documents), which is an
// error that says so and is never taken for something else.
package yaml

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// ErrNotSupported is for what is YAML, but not read here.
var ErrNotSupported = errors.New("balena reads no such YAML: write mappings by indentation")

// Node would be a part of a document.
type Node struct{}

// Decode returns ErrNotSupported.
func (*Node) Decode(any) error { return ErrNotSupported }

// Unmarshal reads a document into what v points to: structs by their yaml tags,
// maps of strings, strings, booleans and pointers to these.
func Unmarshal(in []byte, v any) error {
	p := &parser{}
	for i, raw := range strings.Split(string(in), "\n") {
		if err := p.add(i+1, strings.TrimSuffix(raw, "\r")); err != nil {
			return err
		}
	}
	if len(p.lines) == 0 {
		return nil
	}
	if p.lines[0].indent != 0 {
		return p.lines[0].fail(errors.New("the first line is indented"))
	}
	m, err := p.mapping(0)
	if err != nil {
		return err
	}
	if len(p.lines) > 0 {
		return p.lines[0].fail(errors.New("the indentation fits nothing above"))
	}
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return errors.New("yaml: not a pointer")
	}
	return set(target.Elem(), value{mapping: m, number: 1})
}

// line is one that has a key.
type line struct {
	number, indent int
	key, text      string // text is the raw value, without comment
}

func (l line) fail(err error) error { return fmt.Errorf("yaml: line %d: %w", l.number, err) }

// value is a mapping, a scalar, or nothing.
type value struct {
	number  int
	mapping []entry
	scalar  *string
	quoted  bool
}

type entry struct {
	key string
	value
}

type parser struct{ lines []line }

// add reads a line into key and value.
func (p *parser) add(number int, raw string) error {
	l := line{number: number}
	text := strings.TrimLeft(raw, " ")
	l.indent = len(raw) - len(text)
	switch {
	case strings.TrimSpace(text) == "" || text[0] == '#' || text == "---" && len(p.lines) == 0:
		return nil
	case text[0] == '\t':
		return l.fail(errors.New("a tab cannot indent"))
	case strings.ContainsRune("-?[]{}&*!|>%@`,", rune(text[0])):
		return l.fail(ErrNotSupported)
	}
	var err error
	if text[0] == '"' || text[0] == '\'' {
		if l.key, text, err = quoted(text); err != nil {
			return l.fail(err)
		}
		text = strings.TrimLeft(text, " ")
	} else {
		i := strings.Index(text+" ", ": ")
		if i < 0 {
			return l.fail(fmt.Errorf("%q has no value", text))
		}
		l.key, text = text[:i], text[i:]
	}
	if !strings.HasPrefix(text, ":") {
		return l.fail(errors.New("a key without a colon"))
	}
	l.text = strings.TrimSpace(text[1:])
	p.lines = append(p.lines, l)
	return nil
}

// mapping takes the lines of one indentation with what is below them.
func (p *parser) mapping(indent int) ([]entry, error) {
	m := []entry{}
	for len(p.lines) > 0 && p.lines[0].indent == indent {
		l := p.lines[0]
		p.lines = p.lines[1:]
		for _, e := range m {
			if e.key == l.key {
				return nil, l.fail(fmt.Errorf("the key %q is there twice", l.key))
			}
		}
		v, err := l.value()
		if err != nil {
			return nil, l.fail(err)
		}
		if len(p.lines) > 0 && p.lines[0].indent > indent {
			if v.scalar != nil || v.mapping != nil {
				return nil, p.lines[0].fail(errors.New("it is indented below a value"))
			}
			if v.mapping, err = p.mapping(p.lines[0].indent); err != nil {
				return nil, err
			}
		}
		m = append(m, entry{l.key, v})
	}
	return m, nil
}

// value reads what stands behind a key.
func (l line) value() (value, error) {
	v := value{number: l.number}
	text := l.text
	switch {
	case text == "" || text[0] == '#':
		return v, nil
	case text[0] == '"' || text[0] == '\'':
		s, rest, err := quoted(text)
		if rest = strings.TrimSpace(rest); err == nil && rest != "" && rest[0] != '#' {
			err = ErrNotSupported
		}
		v.scalar, v.quoted = &s, true
		return v, err
	}
	if i := strings.Index(text, " #"); i >= 0 {
		text = strings.TrimSpace(text[:i])
	}
	switch {
	case text == "{}":
		v.mapping = []entry{}
		return v, nil
	case strings.ContainsRune("[]{}&*!|>%@`,?", rune(text[0])) || strings.HasPrefix(text, "- ") ||
		strings.Contains(text, ": ") || strings.HasSuffix(text, ":"):
		return v, ErrNotSupported
	case text == "~" || text == "null":
		return v, nil
	}
	v.scalar = &text
	return v, nil
}

// quoted reads a string in quotes and gives what is behind it.
func quoted(text string) (s, rest string, err error) {
	if text[0] == '\'' {
		var out strings.Builder
		for i := 1; i < len(text); i++ {
			switch {
			case text[i] != '\'':
				out.WriteByte(text[i])
			case strings.HasPrefix(text[i:], "''"):
				out.WriteByte('\'')
				i++
			default:
				return out.String(), text[i+1:], nil
			}
		}
		return "", "", errors.New("a quote is not closed")
	}
	q, err := strconv.QuotedPrefix(text) // Go's escapes are those that such files use
	if err != nil {
		return "", "", errors.New("a quote is not closed, or has an escape that is not known")
	}
	s, err = strconv.Unquote(q)
	return s, text[len(q):], err
}

// set puts a value into a field.
func set(to reflect.Value, v value) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("yaml: line %d: "+format, append([]any{v.number}, args...)...)
	}
	if v.mapping == nil && v.scalar == nil {
		return nil
	}
	switch to.Kind() {
	case reflect.Pointer:
		p := reflect.New(to.Type().Elem())
		if err := set(p.Elem(), v); err != nil {
			return err
		}
		to.Set(p)
		return nil
	case reflect.String:
		if v.scalar == nil {
			return fail("a mapping where text belongs")
		}
		to.SetString(*v.scalar)
		return nil
	case reflect.Bool:
		if v.scalar == nil || v.quoted {
			return fail("true or false belongs here")
		}
		switch strings.ToLower(*v.scalar) {
		case "true", "yes", "on":
			to.SetBool(true)
		case "false", "no", "off":
			to.SetBool(false)
		default:
			return fail("%q is neither true nor false", *v.scalar)
		}
		return nil
	}
	if v.mapping == nil {
		return fail("text where a mapping belongs")
	}
	switch to.Kind() {
	case reflect.Map:
		return setMap(to, v)
	case reflect.Struct:
		return setStruct(to, v)
	}
	return fail("%v", ErrNotSupported)
}

func setMap(to reflect.Value, v value) error {
	m := reflect.MakeMap(to.Type())
	for _, e := range v.mapping {
		item := reflect.New(to.Type().Elem()).Elem()
		if err := set(item, e.value); err != nil {
			return err
		}
		m.SetMapIndex(reflect.ValueOf(e.key).Convert(to.Type().Key()), item)
	}
	to.Set(m)
	return nil
}

// setStruct ignores keys that the struct does not have, as the original does.
func setStruct(to reflect.Value, v value) error {
	t := to.Type()
	for _, e := range v.mapping {
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
			if name == "" {
				name = strings.ToLower(t.Field(i).Name)
			}
			if name == e.key && t.Field(i).IsExported() {
				if err := set(to.Field(i), e.value); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Marshal returns ErrNotSupported: cobra has a generator of YAML documentation
// that nobody calls.
func Marshal(any) ([]byte, error) { return nil, ErrNotSupported }
