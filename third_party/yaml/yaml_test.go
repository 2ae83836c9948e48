package yaml

import (
	"errors"
	"reflect"
	"testing"
)

type namespace struct {
	Lookaside string `yaml:"lookaside"`
	Staging   string `yaml:"lookaside-staging"`
	Attach    *bool  `yaml:"use-sigstore-attachments,omitempty"`
}

type config struct {
	Default *namespace           `yaml:"default-docker"`
	Docker  map[string]namespace `yaml:"docker"`
}

func TestRegistriesD(t *testing.T) {
	yes := true
	for in, want := range map[string]config{
		"":           {},
		"# x\n---\n": {},
		"default-docker:\n#  lookaside: http://x\n  lookaside-staging: file:///var/lib/c # why\n": {Default: &namespace{Staging: "file:///var/lib/c"}},
		"docker:\n\n    reg.example.com:5000:\r\n        lookaside: \"http://a/#b\"\n        use-sigstore-attachments: true\n    'other.com/a''b': {}\nunknown: 5\n": {
			Docker: map[string]namespace{"reg.example.com:5000": {Lookaside: "http://a/#b", Attach: &yes}, "other.com/a'b": {}}},
		"docker:\ndefault-docker: null\n": {},
	} {
		var got config
		if err := Unmarshal([]byte(in), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for in, notSupported := range map[string]bool{
		"docker: {a: b}\n":        true,
		"docker:\n  - a\n":        true,
		"docker: &x\n":            true,
		"docker: |\n  text\n":     false,
		"a: b: c\n":               true,
		"docker:\n\ta: b\n":       false,
		"docker:\n    a:\n  b:\n": false,
		"docker: text\n":          false,
		"docker: \"open\n":        false,
		"docker:\n  a:\n    lookaside: x\n     b: c\n":   false,
		"docker:\ndocker:\n":                             false,
		"no colon\n":                                     false,
		"default-docker:\n  use-sigstore-attachments: 5": false,
		"  docker:\n":                                    false,
	} {
		var got config
		err := Unmarshal([]byte(in), &got)
		if err == nil || notSupported != errors.Is(err, ErrNotSupported) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}
