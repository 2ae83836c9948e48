package shell

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// dollar reads $NAME or ${NAME...} and gives what it stands for.
func (r *reader) dollar() (string, error) {
	r.next()
	if r.peek() != '{' {
		name := r.name()
		if name == "" {
			return "$", nil
		}
		value, set := r.get(name)
		if !set && r.SkipUnsetEnv {
			return "$" + name, nil
		}
		return value, nil
	}
	r.next()
	switch r.peek() {
	case 0:
		return "", errors.New("syntax error: missing '}'")
	case '{', '}', ':':
		return "", errors.New("syntax error: bad substitution")
	}
	name := r.name()
	op := string(r.next())
	if op == ":" && len(r.in) > 0 {
		op += string(r.next())
	}
	switch op {
	case "}":
		value, set := r.get(name)
		if !set && r.SkipUnsetEnv {
			return "${" + name + "}", nil
		}
		return value, nil
	case "-", "+", "?", ":-", ":+", ":?":
		return r.conditional(name, op)
	case "#", "%":
		return r.trimmed(name, op)
	case "/":
		return r.replaced(name)
	}
	return "", fmt.Errorf("unsupported modifier (%s) in substitution", op)
}

// operand reads up to the end of one part of ${...}.
func (r *reader) operand(stop rune, raw bool) (string, error) {
	defer func(was bool) { r.raw = was }(r.raw)
	r.raw = raw
	text, _, err := r.until(stop)
	if err != nil && len(r.in) == 0 {
		if stop == '/' {
			return "", errors.New("syntax error: missing '/' in ${}")
		}
		return "", fmt.Errorf("syntax error: missing '%c'", stop)
	}
	return text, err
}

// conditional is ${NAME-WORD}, ${NAME+WORD}, ${NAME?MESSAGE} and the same with
// a colon, for which an empty variable counts as unset.
func (r *reader) conditional(name, op string) (string, error) {
	word, err := r.operand('}', false)
	if err != nil {
		return "", err
	}
	value, set := r.get(name)
	if !set && r.SkipUnsetEnv {
		return "${" + name + op + word + "}", nil
	}
	kind, colon := op[len(op)-1], len(op) == 2
	have := set && !(colon && value == "")
	switch {
	case kind == '+' && have, kind == '-' && !have:
		return word, nil
	case kind == '+':
		return "", nil
	case have:
		return value, nil
	}
	if word == "" {
		word = "is not allowed to be unset"
		if set {
			word = "is not allowed to be empty"
		}
	}
	return "", fmt.Errorf("%s: %s", name, word)
}

// trimmed is ${NAME#PATTERN} and ${NAME%PATTERN}, which take the shortest fit
// from the beginning or the end, and with ## and %% the longest.
func (r *reader) trimmed(name, op string) (string, error) {
	word, err := r.operand('}', true)
	if err != nil {
		return "", err
	}
	value, set := r.get(name)
	if !set && r.SkipUnsetEnv {
		return "${" + name + op + word + "}", nil
	}
	pattern, longest := strings.CutPrefix(word, op)
	if op == "#" {
		return trimPrefix(value, pattern, longest)
	}
	// The leftmost fit of the mirrored pattern is the rightmost of this one.
	value, err = trimPrefix(mirror(value), mirrorPattern(pattern), longest)
	return mirror(value), err
}

// replaced is ${NAME/PATTERN/TEXT}, and with // every fit.
func (r *reader) replaced(name string) (string, error) {
	all := r.peek() == '/'
	if all {
		r.next()
	}
	pattern, err := r.operand('/', true)
	if err != nil {
		return "", err
	}
	text, err := r.operand('}', true)
	if err != nil {
		return "", err
	}
	value, set := r.get(name)
	if !set && r.SkipUnsetEnv {
		return "${" + name + "/" + pattern + "/" + text + "}", nil
	}
	re, err := compile(pattern, true)
	if err != nil {
		return "", err
	}
	if all {
		return re.ReplaceAllString(value, text), nil
	}
	if at := re.FindStringIndex(value); at != nil {
		value = value[:at[0]] + text + value[at[1]:]
	}
	return value, nil
}

func trimPrefix(value, pattern string, longest bool) (string, error) {
	re, err := compile(pattern, longest)
	if err != nil {
		return "", err
	}
	// The leftmost fit is at the beginning if there is one there.
	if at := re.FindStringIndex(value); at != nil && at[0] == 0 {
		value = value[at[1]:]
	}
	return value, nil
}

// compile makes a regular expression of a pattern with * and ?.
func compile(pattern string, longest bool) (*regexp.Regexp, error) {
	var out strings.Builder
	in := []rune(pattern)
	for i := 0; i < len(in); i++ {
		switch c := in[i]; c {
		case '*':
			out.WriteString(".*")
			if !longest {
				out.WriteByte('?')
			}
		case '?':
			out.WriteByte('.')
		case '\\':
			if i++; i == len(in) {
				return nil, fmt.Errorf("invalid pattern (%s) in substitution: it ends with an escape", pattern)
			}
			if !strings.ContainsRune(`*?\}/`, in[i]) {
				return nil, fmt.Errorf(`invalid pattern (%s) in substitution: invalid escape '\%c'`, pattern, in[i])
			}
			out.WriteString(regexp.QuoteMeta(string(in[i])))
		default:
			out.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return regexp.Compile(out.String())
}

func mirror(s string) string {
	r := []rune(s)
	slices.Reverse(r)
	return string(r)
}

// mirrorPattern keeps escapes before what they escape.
func mirrorPattern(p string) string {
	r := []rune(p)
	var parts []string
	for i := 0; i < len(r); i++ {
		if r[i] == '\\' && i+1 < len(r) {
			parts = append(parts, string(r[i:i+2]))
			i++
		} else {
			parts = append(parts, string(r[i]))
		}
	}
	slices.Reverse(parts)
	return strings.Join(parts, "")
}
