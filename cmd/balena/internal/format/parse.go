package format

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The tree of a template. Nodes write something; expressions have a value.
type (
	node interface{}

	textNode string

	// actionNode is {{pipeline}} or {{$x := pipeline}}.
	actionNode struct {
		pipe expr
		set  string // variable, without the $
		decl bool   // := rather than =
	}

	// branchNode is if, range or with.
	branchNode struct {
		kind       string
		vars       []string // of range (index, element), or the one of with and if
		pipe       expr
		body, rest []node // rest is what else holds
	}

	breakNode    struct{}
	continueNode struct{}
)

type (
	expr interface{}

	litExpr struct{ v any } // string, int, float64, bool or nil
	varExpr string          // $x; "" is $
	dotExpr struct{}

	// fieldExpr is BASE.a.b; args belong to the last field.
	fieldExpr struct {
		base expr
		path []string
		args []expr
	}

	callExpr struct {
		name string
		args []expr
	}
)

var errDepth = errors.New("nested too deeply")

const maxDepth = 100

type parser struct {
	text  string
	pos   int
	depth int

	toks []token // of the action at hand
	tok  int
}

// parse reads the whole template.
func (p *parser) parse() ([]node, error) {
	nodes, end, err := p.list()
	if err == nil && end != "" {
		err = fmt.Errorf("unexpected {{%s}}", end)
	}
	return nodes, err
}

// list reads nodes up to the end of the text or an action that ends a list
// (end, else), which it returns with the tokens after that word unread.
func (p *parser) list() (nodes []node, end string, err error) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return nil, "", errDepth
	}
	for {
		text, action, err := p.next()
		if err != nil {
			return nil, "", err
		}
		if text != "" {
			nodes = append(nodes, textNode(text))
		}
		if !action {
			return nodes, "", nil
		}
		if len(p.toks) == 0 {
			continue // a comment
		}
		first := p.toks[0]
		if first.kind != tokName {
			n, err := p.action()
			if err != nil {
				return nil, "", err
			}
			nodes = append(nodes, n)
			continue
		}
		switch first.text {
		case "end", "else":
			p.tok = 1
			return nodes, first.text, nil
		case "if", "range", "with":
			p.tok = 1
			n, err := p.branch(first.text)
			if err != nil {
				return nil, "", err
			}
			nodes = append(nodes, n)
		case "break", "continue":
			if len(p.toks) > 1 {
				return nil, "", fmt.Errorf("unexpected %q after %s", p.toks[1].text, first.text)
			}
			if first.text == "break" {
				nodes = append(nodes, breakNode{})
			} else {
				nodes = append(nodes, continueNode{})
			}
		case "define", "template", "block":
			return nil, "", fmt.Errorf("{{%s}} is not supported", first.text)
		default:
			n, err := p.action()
			if err != nil {
				return nil, "", err
			}
			nodes = append(nodes, n)
		}
	}
}

// next returns the text up to the next action and reads that action's tokens.
func (p *parser) next() (text string, action bool, err error) {
	rest := p.text[p.pos:]
	trimStart := p.pos > 0 && strings.HasSuffix(p.text[:p.pos], "-}}")
	open := strings.Index(rest, "{{")
	text = rest
	if open >= 0 {
		text = rest[:open]
	}
	if trimStart {
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
	}
	if open < 0 {
		p.pos = len(p.text)
		return unescape(text), false, nil
	}
	body := rest[open+2:]
	if len(body) > 1 && body[0] == '-' && isSpace(body[1]) {
		text = strings.TrimRightFunc(text, unicode.IsSpace)
		body = body[1:]
	}
	n, err := p.scan(body)
	if err != nil {
		return "", false, err
	}
	p.pos = len(p.text) - len(body) + n
	return unescape(text), true, nil
}

func unescape(s string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s)
}

type token struct {
	kind tokKind
	text string // of names, fields, variables: without . and $
	val  any    // of literals
	// space tells whether white space came before: ".a .b" are two values and
	// ".a.b" is one.
	space bool
}

type tokKind int

const (
	tokName  tokKind = iota // a function or keyword
	tokField                // .name
	tokDot                  // .
	tokVar                  // $name
	tokLit
	tokOp // ( ) | , := =
)

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// scan reads the tokens of an action up to its closing braces and tells how
// long it was with them.
func (p *parser) scan(s string) (int, error) {
	p.toks, p.tok = p.toks[:0:0], 0
	i, space := 0, false
	add := func(k tokKind, text string, val any) {
		p.toks = append(p.toks, token{k, text, val, space})
		space = false
	}
	if t := strings.TrimLeft(s, " \t\r\n"); strings.HasPrefix(t, "/*") {
		end := strings.Index(t, "*/")
		if end < 0 {
			return 0, errors.New("unclosed comment")
		}
		after := strings.TrimPrefix(strings.TrimLeft(t[end+2:], " \t\r\n"), "-")
		if !strings.HasPrefix(after, "}}") {
			return 0, errors.New("comment ends before closing braces")
		}
		return len(s) - len(after) + 2, nil
	}
	for i < len(s) {
		switch c := s[i]; {
		case strings.HasPrefix(s[i:], "}}"):
			return i + 2, p.nonEmpty()
		case isSpace(c):
			i++
			space = true
			if strings.HasPrefix(s[i:], "-}}") {
				return i + 3, p.nonEmpty()
			}
		case c == '"' || c == '`' || c == '\'':
			n, err := quotedLen(s[i:])
			if err != nil {
				return 0, err
			}
			v, err := literal(s[i : i+n])
			if err != nil {
				return 0, err
			}
			add(tokLit, s[i:i+n], v)
			i += n
		case c == ':' && strings.HasPrefix(s[i:], ":="):
			add(tokOp, ":=", nil)
			i += 2
		case strings.IndexByte("()|,=", c) >= 0:
			add(tokOp, string(c), nil)
			i++
		case c == '$':
			n := wordLen(s[i+1:])
			add(tokVar, s[i+1:i+1+n], nil)
			i += 1 + n
		case c == '.' && (i+1 >= len(s) || s[i+1] < '0' || s[i+1] > '9'):
			n := wordLen(s[i+1:])
			if n == 0 {
				add(tokDot, "", nil)
			} else {
				add(tokField, s[i+1:i+1+n], nil)
			}
			i += 1 + n
		case c == '.' || c == '-' || c == '+' || c >= '0' && c <= '9':
			n := 1
			for i+n < len(s) && (s[i+n] == '.' || s[i+n] == '_' || isAlnum(s[i+n])) {
				n++
			}
			v, err := number(s[i : i+n])
			if err != nil {
				return 0, err
			}
			add(tokLit, s[i:i+n], v)
			i += n
		default:
			n := wordLen(s[i:])
			if n == 0 {
				r, _ := utf8.DecodeRuneInString(s[i:])
				return 0, fmt.Errorf("unexpected %q in {{%s", r, shorten(s))
			}
			addWord(add, s[i:i+n])
			i += n
		}
	}
	return 0, fmt.Errorf("unclosed action {{%s", shorten(s))
}

func addWord(add func(tokKind, string, any), w string) {
	switch w {
	case "true":
		add(tokLit, w, true)
	case "false":
		add(tokLit, w, false)
	case "nil":
		add(tokLit, w, nil)
	default:
		add(tokName, w, nil)
	}
}

func (p *parser) nonEmpty() error {
	if len(p.toks) == 0 {
		return errors.New("missing value in {{}}")
	}
	return nil
}

func shorten(s string) string {
	if len(s) > 30 {
		return strings.ToValidUTF8(s[:30], "") + "…"
	}
	return s
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func wordLen(s string) int {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return i
		}
	}
	return len(s)
}

func quotedLen(s string) (int, error) {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && s[0] != '`':
			i++
		case s[i] == s[0]:
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("unterminated quoted string %s", shorten(s))
}

func literal(s string) (any, error) {
	if s[0] == '\'' {
		r, _, tail, err := strconv.UnquoteChar(s[1:len(s)-1], '\'')
		if err != nil || tail != "" {
			return nil, fmt.Errorf("malformed character constant %s: strings have double quotes", s)
		}
		return int(r), nil
	}
	v, err := strconv.Unquote(s)
	if err != nil {
		return nil, fmt.Errorf("malformed string %s", s)
	}
	return v, nil
}

func number(s string) (any, error) {
	if n, err := strconv.ParseInt(s, 0, strconv.IntSize); err == nil {
		return int(n), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("bad number %q", s)
	}
	return f, nil
}

func (p *parser) peek() (token, bool) {
	if p.tok < len(p.toks) {
		return p.toks[p.tok], true
	}
	return token{}, false
}

func (p *parser) op(text string) bool {
	t, ok := p.peek()
	if ok && t.kind == tokOp && t.text == text {
		p.tok++
		return true
	}
	return false
}

func (p *parser) done(in string) error {
	if t, ok := p.peek(); ok {
		return fmt.Errorf("unexpected %q in %s", t.text, in)
	}
	return nil
}

// action reads {{pipeline}}, {{$x := pipeline}} or {{$x = pipeline}}.
func (p *parser) action() (node, error) {
	p.tok = 0
	var a actionNode
	if len(p.toks) > 2 && p.toks[0].kind == tokVar && p.toks[1].kind == tokOp && (p.toks[1].text == ":=" || p.toks[1].text == "=") {
		a.set, a.decl = p.toks[0].text, p.toks[1].text == ":="
		p.tok = 2
		if a.set == "" {
			return nil, errors.New("$ cannot be set")
		}
	}
	var err error
	if a.pipe, err = p.pipeline(); err != nil {
		return nil, err
	}
	return a, p.done("action")
}

// branch reads what follows the word if, range or with, to its end.
func (p *parser) branch(kind string) (node, error) {
	b := branchNode{kind: kind}
	b.vars = p.declarations()
	if len(b.vars) > 1 && kind != "range" {
		return nil, fmt.Errorf("too many variables in {{%s}}", kind)
	}
	var err error
	if b.pipe, err = p.pipeline(); err != nil {
		return nil, err
	}
	if err := p.done(kind); err != nil {
		return nil, err
	}
	var end string
	if b.body, end, err = p.list(); err != nil {
		return nil, err
	}
	if end == "else" {
		if t, ok := p.peek(); ok {
			// {{else if x}}…{{end}} is {{else}}{{if x}}…{{end}}{{end}}.
			if t.kind != tokName || t.text != kind || kind == "range" {
				return nil, fmt.Errorf("unexpected %q after else", t.text)
			}
			p.tok++
			p.depth++
			defer func() { p.depth-- }()
			if p.depth > maxDepth {
				return nil, errDepth
			}
			inner, err := p.branch(kind)
			b.rest = []node{inner}
			return b, err
		}
		if b.rest, end, err = p.list(); err != nil {
			return nil, err
		}
	}
	if end != "end" {
		return nil, fmt.Errorf("{{%s}} without {{end}}", kind)
	}
	return b, p.done("end")
}

// declarations reads "$x :=" or "$x, $y :=" where it is there.
func (p *parser) declarations() []string {
	var vars []string
	for i := p.tok; i+1 < len(p.toks) && p.toks[i].kind == tokVar && p.toks[i+1].kind == tokOp && len(vars) < 2; i += 2 {
		vars = append(vars, p.toks[i].text)
		if p.toks[i+1].text == ":=" {
			p.tok = i + 2
			return vars
		}
		if p.toks[i+1].text != "," {
			return nil
		}
	}
	return nil
}

// pipeline reads command | command…: each gets the value before it as its last
// argument.
func (p *parser) pipeline() (expr, error) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return nil, errDepth
	}
	e, err := p.command()
	if err != nil {
		return nil, err
	}
	for p.op("|") {
		next, err := p.command()
		if err != nil {
			return nil, err
		}
		switch n := next.(type) {
		case callExpr:
			n.args = append(n.args, e)
			e = n
		case fieldExpr:
			n.args = append(n.args, e)
			e = n
		default:
			return nil, errors.New("a value cannot stand behind |")
		}
	}
	return e, nil
}

// command reads an operand, or a function or field with its arguments.
func (p *parser) command() (expr, error) {
	t, ok := p.peek()
	if !ok {
		return nil, errors.New("missing value")
	}
	first, err := p.operand()
	if err != nil {
		return nil, err
	}
	var args []expr
	for {
		if a, ok := p.peek(); !ok || a.kind == tokOp && a.text != "(" {
			break
		}
		a, err := p.operand()
		if err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	if len(args) == 0 {
		return first, nil
	}
	switch f := first.(type) {
	case callExpr:
		if len(f.args) == 0 && t.kind == tokName {
			f.args = args
			return f, nil
		}
	case fieldExpr:
		f.args = args
		return f, nil
	}
	return nil, fmt.Errorf("can't give argument to non-function %q", t.text)
}

// operand reads one value with the fields selected from it.
func (p *parser) operand() (expr, error) {
	t, ok := p.peek()
	if !ok {
		return nil, errors.New("missing value")
	}
	p.tok++
	var e expr
	switch t.kind {
	case tokName:
		if !knownFunction(t.text) {
			return nil, fmt.Errorf("function %q not defined", t.text)
		}
		return callExpr{name: t.text}, nil
	case tokDot:
		e = dotExpr{}
	case tokVar:
		e = varExpr(t.text)
	case tokLit:
		return litExpr{t.val}, nil
	case tokField:
		e = fieldExpr{base: dotExpr{}, path: []string{t.text}}
	case tokOp:
		if t.text != "(" {
			return nil, fmt.Errorf("unexpected %q", t.text)
		}
		inner, err := p.pipeline()
		if err != nil {
			return nil, err
		}
		if !p.op(")") {
			return nil, errors.New("unclosed left paren")
		}
		e = inner
		if n, ok := p.peek(); !ok || n.kind != tokField || n.space {
			return parenExpr{inner}, nil
		}
	}
	for {
		n, ok := p.peek()
		if !ok || n.kind != tokField || n.space {
			return e, nil
		}
		p.tok++
		if f, ok := e.(fieldExpr); ok && t.kind != tokOp {
			f.path = append(f.path, n.text)
			e = f
		} else {
			e = fieldExpr{base: e, path: []string{n.text}}
			t.kind = tokField
		}
	}
}

// parenExpr is a pipeline in parentheses: a value, to which no arguments can be
// given.
type parenExpr struct{ e expr }
