package format

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// state is one execution. Variables live in a stack of scopes.
type state struct {
	w       io.Writer
	root    reflect.Value
	vars    []variable
	headers map[string]string // not nil: write column titles instead of values
}

type variable struct {
	name  string
	value reflect.Value
}

var (
	errBreak    = errors.New("{{break}} outside of {{range}}")
	errContinue = errors.New("{{continue}} outside of {{range}}")
)

func (s *state) walk(nodes []node, dot reflect.Value) error {
	scope := len(s.vars)
	defer func() { s.vars = s.vars[:scope] }()
	for _, n := range nodes {
		switch n := n.(type) {
		case textNode:
			if _, err := io.WriteString(s.w, string(n)); err != nil {
				return err
			}
		case actionNode:
			if err := s.action(n, dot); err != nil {
				return err
			}
		case branchNode:
			if err := s.branch(n, dot); err != nil {
				return err
			}
		case breakNode:
			return errBreak
		case continueNode:
			return errContinue
		}
	}
	return nil
}

func (s *state) action(n actionNode, dot reflect.Value) error {
	v, err := s.eval(n.pipe, dot)
	if err != nil {
		return err
	}
	switch {
	case n.set != "" && n.decl:
		s.vars = append(s.vars, variable{n.set, v})
		return nil
	case n.set != "":
		for i := len(s.vars) - 1; i >= 0; i-- {
			if s.vars[i].name == n.set {
				s.vars[i].value = v
				return nil
			}
		}
		return fmt.Errorf("undefined variable $%s", n.set)
	}
	_, err = io.WriteString(s.w, text(v))
	return err
}

func (s *state) branch(n branchNode, dot reflect.Value) error {
	scope := len(s.vars)
	defer func() { s.vars = s.vars[:scope] }()
	v, err := s.eval(n.pipe, dot)
	if err != nil {
		return err
	}
	if n.kind == "range" {
		return s.rangeOver(n, v, dot)
	}
	if len(n.vars) == 1 {
		s.vars = append(s.vars, variable{n.vars[0], v})
	}
	switch {
	case !truth(v):
		return s.walk(n.rest, dot)
	case n.kind == "with":
		return s.walk(n.body, v)
	}
	return s.walk(n.body, dot)
}

func (s *state) rangeOver(n branchNode, v, dot reflect.Value) error {
	v = indirect(v)
	scope := len(s.vars)
	once := func(key, elem reflect.Value) (more bool, err error) {
		s.vars = s.vars[:scope]
		switch len(n.vars) {
		case 1:
			s.vars = append(s.vars, variable{n.vars[0], elem})
		case 2:
			s.vars = append(s.vars, variable{n.vars[0], key}, variable{n.vars[1], elem})
		}
		switch err := s.walk(n.body, elem); {
		case errors.Is(err, errBreak):
			return false, nil
		case err != nil && !errors.Is(err, errContinue):
			return false, err
		}
		return true, nil
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if more, err := once(reflect.ValueOf(i), v.Index(i)); !more {
				return err
			}
		}
	case reflect.Map:
		for _, k := range sortedKeys(v) {
			if more, err := once(k, v.MapIndex(k)); !more {
				return err
			}
		}
	case reflect.Invalid:
	default:
		if s.headers == nil {
			return fmt.Errorf("range can't iterate over %s", text(v))
		}
	}
	if k := v.Kind(); (k == reflect.Slice || k == reflect.Array || k == reflect.Map) && v.Len() > 0 {
		return nil
	}
	return s.walk(n.rest, dot)
}

func sortedKeys(m reflect.Value) []reflect.Value {
	return slices.SortedFunc(slices.Values(m.MapKeys()), func(a, b reflect.Value) int {
		return strings.Compare(text(a), text(b))
	})
}

func (s *state) eval(e expr, dot reflect.Value) (reflect.Value, error) {
	switch e := e.(type) {
	case litExpr:
		return reflect.ValueOf(e.v), nil
	case dotExpr:
		return dot, nil
	case parenExpr:
		return s.eval(e.e, dot)
	case varExpr:
		if e == "" {
			return s.root, nil
		}
		for i := len(s.vars) - 1; i >= 0; i-- {
			if s.vars[i].name == string(e) {
				return s.vars[i].value, nil
			}
		}
		return reflect.Value{}, fmt.Errorf("undefined variable $%s", string(e))
	case fieldExpr:
		return s.field(e, dot)
	case callExpr:
		return s.call(e, dot)
	}
	return reflect.Value{}, errors.New("missing value")
}

func (s *state) field(e fieldExpr, dot reflect.Value) (reflect.Value, error) {
	if s.headers != nil {
		return reflect.ValueOf(title(e.path[len(e.path)-1], s.headers)), nil
	}
	v, err := s.eval(e.base, dot)
	if err != nil {
		return v, err
	}
	for _, name := range e.path {
		if v, err = lookUp(v, name); err != nil {
			return v, err
		}
	}
	if v.IsValid() && v.Kind() == reflect.Func {
		f, ok := v.Interface().(func(string) string)
		if !ok || len(e.args) != 1 {
			return reflect.Value{}, fmt.Errorf(".%s takes one argument, a string", e.path[len(e.path)-1])
		}
		arg, err := s.eval(e.args[0], dot)
		if err != nil {
			return arg, err
		}
		return reflect.ValueOf(f(text(arg))), nil
	}
	if len(e.args) > 0 {
		return reflect.Value{}, fmt.Errorf(".%s takes no argument", e.path[len(e.path)-1])
	}
	return v, nil
}

// lookUp selects a field of a struct or an entry of a map. What a map does not
// have is the invalid value ("<no value>"); what a struct does not have is an
// error.
func lookUp(v reflect.Value, name string) (reflect.Value, error) {
	v = indirect(v)
	switch v.Kind() {
	case reflect.Invalid:
		return reflect.Value{}, nil
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String {
			return v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key())), nil
		}
	case reflect.Struct:
		if f, ok := structField(v, name); ok {
			return f, nil
		}
	}
	return reflect.Value{}, fmt.Errorf("can't evaluate field %s in type %s", name, v.Type())
}

// structField finds an exported field by its name or else by its JSON name.
func structField(v reflect.Value, name string) (reflect.Value, bool) {
	var embedded []reflect.Value
	var tagged reflect.Value
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() && !f.Anonymous {
			continue
		}
		if f.IsExported() && f.Name == name {
			return v.Field(i), true
		}
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && tag == name && tag != "-" {
			tagged = v.Field(i)
		}
		if f.Anonymous {
			embedded = append(embedded, v.Field(i))
		}
	}
	if tagged.IsValid() {
		return tagged, true
	}
	for _, e := range embedded {
		if e = indirect(e); e.Kind() == reflect.Struct {
			if f, ok := structField(e, name); ok {
				return f, true
			}
		}
	}
	return reflect.Value{}, false
}

// indirect follows pointers and interfaces; nil becomes the invalid value.
func indirect(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	return v
}

// truth is Go templates' notion: not the zero value, and not empty.
func truth(v reflect.Value) bool {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Invalid:
		return false
	case reflect.Slice, reflect.Map, reflect.String, reflect.Array:
		return v.Len() > 0
	case reflect.Struct:
		return true
	}
	return !v.IsZero()
}

// text is how a value is printed.
func text(v reflect.Value) string {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() {
		return "<no value>"
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "<nil>"
		}
		if _, ok := v.Interface().(fmt.Stringer); !ok {
			v = indirect(v)
			if !v.IsValid() {
				return "<nil>"
			}
		}
	}
	if !v.CanInterface() {
		return "<no value>"
	}
	return fmt.Sprint(v.Interface())
}

// value is v as an ordinary Go value; nil when there is none.
func value(v reflect.Value) any {
	if v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() || !v.CanInterface() {
		return nil
	}
	return v.Interface()
}

func (s *state) call(e callExpr, dot reflect.Value) (reflect.Value, error) {
	args := make([]reflect.Value, 0, len(e.args))
	for _, a := range e.args {
		v, err := s.eval(a, dot)
		if err != nil {
			return v, err
		}
		args = append(args, v)
		// and, or: the first that decides is the value, the rest is not looked at.
		if (e.name == "and" && !truth(v)) || (e.name == "or" && truth(v)) {
			return v, nil
		}
	}
	if s.headers != nil && len(args) > 0 {
		return titleOf(args), nil
	}
	f := functions[e.name]
	if len(args) < f.min || (f.max >= 0 && len(args) > f.max) {
		return reflect.Value{}, fmt.Errorf("wrong number of arguments for %s: %d", e.name, len(args))
	}
	v, err := f.call(args)
	if err != nil {
		return reflect.Value{}, fmt.Errorf("%s: %w", e.name, err)
	}
	return v, nil
}

// titleOf picks the column title among a function's arguments: the one that is
// in capitals, as titles are.
func titleOf(args []reflect.Value) reflect.Value {
	for _, a := range args {
		if t := text(a); t != "" && t == strings.ToUpper(t) && strings.ToLower(t) != t {
			return a
		}
	}
	return args[0]
}

func knownFunction(name string) bool {
	_, ok := functions[name]
	return ok
}
