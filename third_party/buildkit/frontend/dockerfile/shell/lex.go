// Package shell takes the place of the package of this name of
// github.com/moby/buildkit: it expands variables and splits words as a shell
// would, in what imagebuilder hands it (the line that begins a heredoc, its
// name, and its content).
//
// Lost: nothing.
package shell

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// EnvGetter is an environment.
type EnvGetter interface {
	Get(name string) (value string, set bool)
	Keys() []string
}

// Lex says how text is read. It may be used by one goroutine at a time.
type Lex struct {
	escape            rune
	RawQuotes         bool // quotes stay
	RawEscapes        bool // escapes stay
	SkipProcessQuotes bool // quotes are characters like others
	SkipUnsetEnv      bool // what names an unset variable stays as it is
}

// NewLex makes a Lex with \ or ` as its escape character.
func NewLex(escape rune) *Lex { return &Lex{escape: escape} }

// ProcessWord expands what is in a text, and says which variables it names
// that are not set.
func (l *Lex) ProcessWord(text string, env EnvGetter) (string, map[string]struct{}, error) {
	r := &reader{Lex: l, in: []rune(text), env: env, raw: l.RawEscapes}
	out, _, err := r.until(0)
	if err != nil {
		return "", r.unset, fmt.Errorf("failed to process %q: %w", text, err)
	}
	return out, r.unset, nil
}

// ProcessWords expands what is in a text and splits the result at white space
// that is not quoted.
func (l *Lex) ProcessWords(text string, env EnvGetter) ([]string, error) {
	r := &reader{Lex: l, in: []rune(text), env: env, raw: l.RawEscapes}
	_, words, err := r.until(0)
	if err != nil {
		return []string{}, fmt.Errorf("failed to process %q: %w", text, err)
	}
	return words, nil
}

// reader goes through one text.
type reader struct {
	*Lex
	in    []rune
	env   EnvGetter
	raw   bool // escapes stay
	unset map[string]struct{}
}

// peek gives the next character, 0 at the end.
func (r *reader) peek() rune {
	if len(r.in) == 0 {
		return 0
	}
	return r.in[0]
}

func (r *reader) next() rune {
	c := r.peek()
	if len(r.in) > 0 {
		r.in = r.in[1:]
	}
	return c
}

// splitter collects words.
type splitter struct {
	word  strings.Builder
	words []string
}

// quoted adds text in which white space does not end a word.
func (s *splitter) quoted(text string) { s.word.WriteString(text) }

// plain adds text in which it does.
func (s *splitter) plain(text string) {
	for _, c := range text {
		if unicode.IsSpace(c) {
			s.end()
		} else {
			s.word.WriteRune(c)
		}
	}
}

func (s *splitter) end() {
	if s.word.Len() > 0 {
		s.words = append(s.words, s.word.String())
		s.word.Reset()
	}
}

// until reads up to a character, which it takes too, or up to the end where
// that is 0.
func (r *reader) until(stop rune) (string, []string, error) {
	var out strings.Builder
	var words splitter
	for len(r.in) > 0 {
		c := r.peek()
		var text string
		var err error
		add := words.quoted
		switch {
		case stop != 0 && c == stop:
			r.next()
			words.end()
			return out.String(), words.words, nil
		case c == '\'' && !r.SkipProcessQuotes:
			text, err = r.single()
		case c == '"' && !r.SkipProcessQuotes:
			text, err = r.double()
		case c == '$':
			add = words.plain
			text, err = r.dollar()
		case c == '<':
			text = r.heredoc()
		case c == r.escape:
			text = r.escaped()
		default:
			add = words.plain
			text = string(r.next())
		}
		if err != nil {
			return "", nil, err
		}
		out.WriteString(text)
		add(text)
	}
	if stop != 0 {
		return "", nil, fmt.Errorf("unexpected end of statement while looking for matching %c", stop)
	}
	words.end()
	return out.String(), words.words, nil
}

// escaped reads an escape and what it escapes.
func (r *reader) escaped() string {
	text := string(r.next())
	if !r.raw {
		text = ""
	}
	if len(r.in) > 0 {
		text += string(r.next())
	}
	return text
}

// heredoc reads << with the blanks behind it as one, so that a name that stands
// apart belongs to the word.
func (r *reader) heredoc() string {
	r.next()
	if r.peek() != '<' {
		return "<"
	}
	r.next()
	text := "<<"
	for c := r.peek(); c == ' ' || c == '\t' || c == '\r'; c = r.peek() {
		text += string(r.next())
	}
	return text
}

func (r *reader) single() (string, error) {
	var out strings.Builder
	r.quote(&out)
	for len(r.in) > 0 {
		if r.peek() == '\'' {
			r.quote(&out)
			return out.String(), nil
		}
		out.WriteRune(r.next())
	}
	return "", errors.New("unexpected end of statement while looking for matching single-quote")
}

func (r *reader) double() (string, error) {
	var out strings.Builder
	r.quote(&out)
	for len(r.in) > 0 {
		switch r.peek() {
		case '"':
			r.quote(&out)
			return out.String(), nil
		case '$':
			value, err := r.dollar()
			if err != nil {
				return "", err
			}
			out.WriteString(value)
		case r.escape:
			c := r.next()
			if len(r.in) == 0 {
				break
			}
			e := r.peek()
			special := e == '"' || e == '$' || e == r.escape
			if r.raw || !special {
				out.WriteRune(c)
			}
			if special {
				out.WriteRune(r.next())
			} else if r.raw {
				out.WriteRune(c) // a second time: docker's builders do
			}
		default:
			out.WriteRune(r.next())
		}
	}
	return "", errors.New("unexpected end of statement while looking for matching double-quote")
}

// quote takes a quote, and keeps it where quotes stay.
func (r *reader) quote(out *strings.Builder) {
	if c := r.next(); r.RawQuotes {
		out.WriteRune(c)
	}
}

// get looks a variable up.
func (r *reader) get(name string) (string, bool) {
	value, set := r.env.Get(name)
	if !set {
		if r.unset == nil {
			r.unset = map[string]struct{}{}
		}
		r.unset[name] = struct{}{}
	}
	return value, set
}

// name reads a variable's: letters, digits and _, or a number, or one of the
// shell's own.
func (r *reader) name() string {
	c := r.peek()
	in := func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) || c == '_' }
	switch {
	case unicode.IsDigit(c):
		in = unicode.IsDigit
	case c != 0 && strings.ContainsRune("@*#?-$!0", c):
		return string(r.next())
	}
	var out strings.Builder
	for len(r.in) > 0 && in(r.peek()) {
		out.WriteRune(r.next())
	}
	return out.String()
}
