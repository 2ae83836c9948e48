// Package copier takes the place of github.com/jinzhu/copier, which
// containers/common calls in two places, for a copy of its settings and to show
// a manifest list. The original copies between any two types and calls methods
// by their names for it, at which the linker keeps every exported method of
// every type.
//
// Here what has the same type is assigned. Of other types the fields are copied
// by way of JSON: those that have one JSON name, or are embedded, on both sides.
package copier

import (
	"encoding/json"
	"reflect"
)

// Copy fills what to points to with the fields of what from is or points to
// that it has too.
func Copy(to, from any) error {
	t, f := reflect.ValueOf(to), reflect.Indirect(reflect.ValueOf(from))
	if t.Kind() == reflect.Pointer && f.IsValid() && t.Type().Elem() == f.Type() {
		t.Elem().Set(f)
		return nil
	}
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
