// Package spew takes the place of the package of this name of
// github.com/davecgh/go-spew, with which containers/common writes to its debug
// log what an OCI hook changed.
//
// Lost: pointers are not followed as deep.
package spew

import "encoding/json"

// ConfigState is how values are shown.
type ConfigState struct {
	Indent                  string
	DisablePointerAddresses bool
	DisableCapacities       bool
	SortKeys                bool
}

// Sdump shows values as JSON.
func (c *ConfigState) Sdump(values ...any) string {
	out := ""
	for _, v := range values {
		b, err := json.MarshalIndent(v, "", c.Indent)
		if err != nil {
			b = []byte(err.Error())
		}
		out += string(b) + "\n"
	}
	return out
}
