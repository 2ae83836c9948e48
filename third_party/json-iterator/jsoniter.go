// Package jsoniter takes the place of github.com/json-iterator/go, through
// which containers/storage reads and writes its records. It hands on to
// encoding/json, which is in the binary anyway.
//
// Lost: some speed. containers/storage's records are a few hundred bytes a
// layer.
package jsoniter

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// API is the part of encoding/json that is asked for.
type API struct{}

// Both configurations are encoding/json as it is.
var ConfigCompatibleWithStandardLibrary, ConfigFastest API

// Marshal is json.Marshal.
func (API) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

// MarshalIndent is json.MarshalIndent.
func (API) MarshalIndent(v any, prefix, indent string) ([]byte, error) {
	return json.MarshalIndent(v, prefix, indent)
}

// Unmarshal is json.Unmarshal.
func (API) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// NewDecoder is json.NewDecoder.
func (API) NewDecoder(r io.Reader) *json.Decoder { return json.NewDecoder(r) }

// NewEncoder is json.NewEncoder.
func (API) NewEncoder(w io.Writer) *json.Encoder { return json.NewEncoder(w) }

// ValueType is a kind of JSON value.
type ValueType int

// What WhatIsNext tells apart: nothing (more) that is valid, or something.
const (
	InvalidValue ValueType = iota
	AnyValue
)

var errType = errors.New("a JSON value of another type than expected")

// Iterator goes through one JSON text value by value. Error is the first error,
// io.EOF at the end of the text; after an error every method returns the zero
// value.
type Iterator struct {
	Error error

	dec  *json.Decoder
	want bool // the next thing is a value, not a further key or element
}

// ParseBytes starts an Iterator.
func ParseBytes(_ API, data []byte) *Iterator {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return &Iterator{dec: dec, want: true}
}

// token is the next token; false after an error.
func (it *Iterator) token() (json.Token, bool) {
	if it.Error != nil {
		return nil, false
	}
	tok, err := it.dec.Token()
	it.Error = midway(err)
	return tok, err == nil
}

// midway is err where the text may not end yet.
func midway(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// open takes the delimiter that starts an object or array, if it is yet to be
// entered; false if there is none to go through.
func (it *Iterator) open(delim json.Delim) bool {
	if !it.want {
		return it.Error == nil
	}
	it.want = false
	tok, ok := it.token()
	if ok && tok != nil && tok != delim {
		it.Error = errType
	}
	return it.Error == nil && tok == delim
}

// ReadObject returns the next key of an object, the first one if a value is
// next; "" at its end.
func (it *Iterator) ReadObject() string {
	if !it.open('{') {
		return ""
	}
	switch tok, _ := it.token(); tok := tok.(type) {
	case string:
		it.want = true
		return tok
	case json.Delim:
		if tok != '}' {
			it.Error = errType
		}
	}
	return ""
}

// ReadArray says whether an array has a further element, which is next then.
func (it *Iterator) ReadArray() bool {
	if !it.open('[') {
		return false
	}
	if it.dec.More() {
		it.want = true
		return true
	}
	if tok, ok := it.token(); ok && tok != json.Delim(']') {
		it.Error = errType
	}
	return false
}

// ReadString reads a string, or null as "".
func (it *Iterator) ReadString() string {
	it.want = false
	tok, ok := it.token()
	s, isString := tok.(string)
	if ok && tok != nil && !isString {
		it.Error = errType
	}
	return s
}

// ReadInt64 reads a number without fraction or exponent.
func (it *Iterator) ReadInt64() int64 {
	it.want = false
	tok, ok := it.token()
	if !ok {
		return 0
	}
	num, isNumber := tok.(json.Number)
	if !isNumber {
		it.Error = errType
		return 0
	}
	n, err := num.Int64()
	it.Error = err
	return n
}

// ReadInt is ReadInt64 for numbers that fit an int.
func (it *Iterator) ReadInt() int {
	n := it.ReadInt64()
	if it.Error == nil && int64(int(n)) != n {
		it.Error = errType
		return 0
	}
	return int(n)
}

// Skip reads one value of any type.
func (it *Iterator) Skip() {
	it.want = false
	if it.Error == nil {
		var v json.RawMessage
		it.Error = midway(it.dec.Decode(&v))
	}
}

// WhatIsNext reads on after the last value: InvalidValue at the end of the
// text, with Error io.EOF, and where anything follows that is not JSON.
func (it *Iterator) WhatIsNext() ValueType {
	if it.Error == nil {
		_, it.Error = it.dec.Token()
	}
	if it.Error != nil {
		return InvalidValue
	}
	return AnyValue
}
