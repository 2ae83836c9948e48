package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

type function struct {
	min, max int // of arguments; max -1 is any number
	call     func([]reflect.Value) (reflect.Value, error)
}

// functions are those of docker's templates and the ones of text/template that
// are not about HTML. A pipeline's value comes as the last argument.
var functions = map[string]function{
	"json":       {1, 1, func(a []reflect.Value) (reflect.Value, error) { return toJSON(value(a[0]), "") }},
	"prettyjson": {1, 1, func(a []reflect.Value) (reflect.Value, error) { return toJSON(value(a[0]), "    ") }},
	"upper":      onText(strings.ToUpper),
	"lower":      onText(strings.ToLower),
	"title":      onText(capitalise),
	"split": {2, 2, func(a []reflect.Value) (reflect.Value, error) {
		return reflect.ValueOf(strings.Split(text(a[0]), text(a[1]))), nil
	}},
	"join":     {2, 2, join},
	"pad":      {3, 3, pad},
	"truncate": {2, 2, truncate},
	"len":      {1, 1, length},
	"index":    {1, -1, index},
	"slice":    {1, 4, subslice},
	"print": {0, -1, func(a []reflect.Value) (reflect.Value, error) {
		return reflect.ValueOf(fmt.Sprint(values(a)...)), nil
	}},
	"println": {0, -1, func(a []reflect.Value) (reflect.Value, error) {
		return reflect.ValueOf(fmt.Sprintln(values(a)...)), nil
	}},
	"printf": {1, -1, func(a []reflect.Value) (reflect.Value, error) {
		return reflect.ValueOf(fmt.Sprintf(text(a[0]), values(a[1:])...)), nil
	}},
	"not": {1, 1, func(a []reflect.Value) (reflect.Value, error) { return reflect.ValueOf(!truth(a[0])), nil }},
	"and": {1, -1, last},
	"or":  {1, -1, last},
	"eq": {2, -1, func(a []reflect.Value) (reflect.Value, error) {
		for _, b := range a[1:] {
			c, err := compare(a[0], b)
			if err != nil || c == 0 {
				return reflect.ValueOf(c == 0), err
			}
		}
		return reflect.ValueOf(false), nil
	}},
	"ne": comparison(func(c int) bool { return c != 0 }),
	"lt": comparison(func(c int) bool { return c < 0 }),
	"le": comparison(func(c int) bool { return c <= 0 }),
	"gt": comparison(func(c int) bool { return c > 0 }),
	"ge": comparison(func(c int) bool { return c >= 0 }),
}

func onText(f func(string) string) function {
	return function{1, 1, func(a []reflect.Value) (reflect.Value, error) { return reflect.ValueOf(f(text(a[0]))), nil }}
}

func last(a []reflect.Value) (reflect.Value, error) { return a[len(a)-1], nil }

func values(a []reflect.Value) []any {
	list := make([]any, len(a))
	for i, v := range a {
		list[i] = value(v)
	}
	return list
}

func toJSON(v any, indent string) (reflect.Value, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return reflect.Value{}, err
	}
	return reflect.ValueOf(strings.TrimSuffix(b.String(), "\n")), nil
}

func capitalise(s string) string {
	start := true
	return strings.Map(func(r rune) rune {
		defer func() { start = unicode.IsSpace(r) }()
		if start {
			return unicode.ToTitle(r)
		}
		return r
	}, s)
}

// join takes docker's order, list and separator, and podman's, which is the
// same.
func join(a []reflect.Value) (reflect.Value, error) {
	list := indirect(a[0])
	if list.Kind() != reflect.Slice && list.Kind() != reflect.Array {
		if !list.IsValid() {
			return reflect.ValueOf(""), nil
		}
		return reflect.Value{}, fmt.Errorf("%s is not a list", text(list))
	}
	parts := make([]string, list.Len())
	for i := range parts {
		parts[i] = text(list.Index(i))
	}
	return reflect.ValueOf(strings.Join(parts, text(a[1]))), nil
}

// maxPad bounds what a template can ask for.
const maxPad = 1 << 16

func pad(a []reflect.Value) (reflect.Value, error) {
	left, err := integer(a[1])
	if err != nil {
		return reflect.Value{}, err
	}
	right, err := integer(a[2])
	if err != nil {
		return reflect.Value{}, err
	}
	s := text(a[0])
	if s == "" {
		return a[0], nil
	}
	if left < 0 || right < 0 || left > maxPad || right > maxPad {
		return reflect.Value{}, errors.New("too many spaces")
	}
	return reflect.ValueOf(strings.Repeat(" ", left) + s + strings.Repeat(" ", right)), nil
}

func truncate(a []reflect.Value) (reflect.Value, error) {
	n, err := integer(a[1])
	if err != nil {
		return reflect.Value{}, err
	}
	s := text(a[0])
	if utf8.RuneCountInString(s) <= n {
		return reflect.ValueOf(s), nil
	}
	return reflect.ValueOf(string([]rune(s)[:max(n, 0)])), nil
}

func length(a []reflect.Value) (reflect.Value, error) {
	switch v := indirect(a[0]); v.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map, reflect.String:
		return reflect.ValueOf(v.Len()), nil
	case reflect.Invalid:
		return reflect.Value{}, errors.New("there is no value")
	default:
		return reflect.Value{}, fmt.Errorf("%s has no length", text(v))
	}
}

func integer(v reflect.Value) (int, error) {
	switch v = indirect(v); {
	case v.CanInt():
		return int(v.Int()), nil
	case v.CanUint():
		return int(v.Uint()), nil
	}
	return 0, fmt.Errorf("%s is not an integer", text(v))
}

func index(a []reflect.Value) (reflect.Value, error) {
	v := indirect(a[0])
	for _, key := range a[1:] {
		switch v.Kind() {
		case reflect.Map:
			k := indirect(key)
			if !k.IsValid() || !k.Type().ConvertibleTo(v.Type().Key()) || k.Kind() != v.Type().Key().Kind() {
				return reflect.Value{}, fmt.Errorf("%s is not a key of this map", text(k))
			}
			v = indirect(v.MapIndex(k.Convert(v.Type().Key())))
		case reflect.Slice, reflect.Array, reflect.String:
			i, err := integer(key)
			if err != nil {
				return reflect.Value{}, err
			}
			if i < 0 || i >= v.Len() {
				return reflect.Value{}, fmt.Errorf("index out of range: %d", i)
			}
			v = indirect(v.Index(i))
		case reflect.Invalid:
			return reflect.Value{}, errors.New("index of untyped nil")
		default:
			return reflect.Value{}, fmt.Errorf("can't index item of type %s", v.Type())
		}
	}
	return v, nil
}

func subslice(a []reflect.Value) (reflect.Value, error) {
	v := indirect(a[0])
	if v.Kind() != reflect.String && v.Kind() != reflect.Slice {
		return reflect.Value{}, fmt.Errorf("can't slice %s", text(v))
	}
	from, to := 0, v.Len()
	for i, p := range []*int{&from, &to} {
		if i+1 < len(a) {
			n, err := integer(a[i+1])
			if err != nil {
				return reflect.Value{}, err
			}
			*p = n
		}
	}
	if len(a) > 3 {
		return reflect.Value{}, errors.New("slices of three indexes are not supported")
	}
	if from < 0 || to < from || to > v.Len() {
		return reflect.Value{}, fmt.Errorf("index out of range: %d:%d", from, to)
	}
	return v.Slice(from, to), nil
}

func comparison(ok func(int) bool) function {
	return function{2, 2, func(a []reflect.Value) (reflect.Value, error) {
		c, err := compare(a[0], a[1])
		return reflect.ValueOf(ok(c)), err
	}}
}

// compare is negative, 0 or positive; values that have no order are equal or
// not.
func compare(a, b reflect.Value) (int, error) {
	a, b = indirect(a), indirect(b)
	switch {
	case !a.IsValid() || !b.IsValid():
		if a.IsValid() == b.IsValid() {
			return 0, nil
		}
		return 1, nil
	case a.Kind() == reflect.String && b.Kind() == reflect.String:
		return strings.Compare(a.String(), b.String()), nil
	case a.Kind() == reflect.Bool && b.Kind() == reflect.Bool:
		if a.Bool() == b.Bool() {
			return 0, nil
		}
		return 1, nil
	}
	x, xok := number64(a)
	y, yok := number64(b)
	switch {
	case !xok || !yok:
		return 1, fmt.Errorf("incompatible types for comparison: %s and %s", a.Type(), b.Type())
	case x < y:
		return -1, nil
	case x > y:
		return 1, nil
	}
	return 0, nil
}

func number64(v reflect.Value) (float64, bool) {
	switch {
	case v.CanInt():
		return float64(v.Int()), true
	case v.CanUint():
		return float64(v.Uint()), true
	case v.CanFloat():
		return v.Float(), true
	}
	return 0, false
}
