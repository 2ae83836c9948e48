package jsoniter

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

// read goes through a text as containers/storage does through a table of
// contents of zstd:chunked.
func read(text string) (string, error) {
	out := ""
	it := ParseBytes(ConfigFastest, []byte(text))
	for key := it.ReadObject(); key != ""; key = it.ReadObject() {
		switch key {
		case "n":
			out += fmt.Sprint("n=", it.ReadInt(), ";")
		case "s":
			out += "s=" + it.ReadString() + ";"
		case "list":
			for it.ReadArray() {
				out += "("
				for key := it.ReadObject(); key != ""; key = it.ReadObject() {
					switch key {
					case "map":
						for k := it.ReadObject(); k != ""; k = it.ReadObject() {
							out += k + ":" + it.ReadString() + ","
						}
					case "size":
						out += fmt.Sprint(it.ReadInt64())
					default:
						it.Skip()
					}
				}
				out += ")"
			}
		default:
			it.Skip()
		}
	}
	if it.Error != nil && it.Error != io.EOF {
		return out, it.Error
	}
	if it.WhatIsNext() != InvalidValue || !errors.Is(it.Error, io.EOF) {
		return out, errors.New("unexpected data")
	}
	return out, nil
}

func TestIterator(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                      "",
		`{"n":1,"s":"x"}` + "\n ": "n=1;s=x;",
		`{"list":[],"n":-3}`:      "n=-3;",
		`{"x":{"s":[1,{"s":2}]},"s":null,"list":null,"n":2}`:                                              "s=;n=2;",
		`{"list":[{},{"size":9007199254740993},{"map":{}},{"map":{"a":"b","c":"d"},"y":[[]]}],"s":"end"}`: "()(9007199254740993)()(a:b,c:d,)s=end;",
	} {
		if got, err := read(in); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{
		``, `x`, `[]`, `1`, `{`, `{"n"`, `{"n":`, `{"n":1`, `{"n":1,}`, `{"n":"1"}`, `{"n":1.5}`, `{"n":1e400}`, `{"s":1}`, `{"s":{}}`,
		`{"list":{}}`, `{"list":[1]}`, `{"list":[{}`, `{"list":[{},]}`, `{}{}`, `{} x`, `{}}`, `{}]`, `{}"`, `{"list":[{"map":["a"]}]}`, `{"x":}`,
	} {
		if got, err := read(bad); err == nil {
			t.Errorf("accepted %s: %q", bad, got)
		}
	}
}
