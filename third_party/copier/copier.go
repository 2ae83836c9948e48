// Package copier takes the place of github.com/jinzhu/copier, which
// containers/common calls in one place, to show a manifest list. The original
// copies between any two types and calls methods by their names for it, at
// which the linker keeps every exported method of every type.
//
// Here fields are copied by way of JSON: those that have one JSON name, or are
// embedded, on both sides.
package copier

import "encoding/json"

// Copy fills what to points to with the fields of from that it has too.
func Copy(to, from any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
