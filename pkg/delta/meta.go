package delta

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
)

// parseHeader tells whether a block is a header, by its checksum, and how much
// content it says that it has.
func parseHeader(block []byte) (size int64, ok bool) {
	sum, ok := parseNumber(block[148:156])
	if !ok {
		return 0, false
	}
	var unsigned, signed int64
	for i, b := range block {
		if i >= 148 && i < 156 {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	if sum != unsigned && sum != signed {
		return 0, false
	}
	size, ok = parseNumber(block[124:136])
	return size, ok && size <= maxSize
}

// parseNumber reads octal digits or, where the first bit says so, a binary
// number.
func parseNumber(b []byte) (int64, bool) {
	if b[0]&0x80 != 0 {
		v := uint64(b[0] & 0x7f)
		for _, c := range b[1:] {
			if v > maxSize {
				return 0, false
			}
			v = v<<8 | uint64(c)
		}
		return int64(v), v <= maxSize
	}
	s := strings.Trim(string(b), " \x00")
	if s == "" {
		return 0, true
	}
	v, err := strconv.ParseUint(s, 8, 60)
	return int64(v), err == nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// headerName is the name in a header, prefix included.
func headerName(block []byte) string {
	n := cString(block[:100])
	if prefix := cString(block[345:500]); prefix != "" && string(block[257:263]) == "ustar\x00" {
		n = prefix + "/" + n
	}
	return n
}

// meta codes an entry that says something about the next one. Where it carries
// a name, or comes before the entry that does, the name is coded here.
func (e *encoder) meta(in *bufio.Reader, block, content, pad []byte) error {
	raw := headerName(block)
	switch block[156] {
	case 'x':
		if p, _, ok := findPath(content); ok {
			raw = p
		} else if next, err := in.Peek(blockSize); err == nil {
			if _, ok := parseHeader(next); ok {
				raw = headerName(next)
			}
		}
	case 'L':
		raw = cString(content)
	}
	rawPad := !allZero(pad)
	if _, err := e.header(block, plan{how: madeLiteral}, content, int64(len(content)), raw, rawPad); err != nil {
		return err
	}
	if rawPad {
		e.s.bytes(colData, pad)
	}
	return nil
}

// metaContent codes what such an entry says, without the name.
func (e *encoder) metaContent(flag byte, n name, content []byte) {
	how, at, record := byte(metaRaw), len(content), ""
	switch flag {
	case 'x':
		if p, i, ok := findPath(content); ok && p == n.raw && bytes.HasPrefix(content[i:], []byte(paxPath(p))) {
			how, at, record = metaPAX, i, paxPath(p)
		}
	case 'L':
		if bytes.HasPrefix(content, []byte(n.raw+"\x00")) {
			how, at, record = metaGNU, 0, n.raw+"\x00"
		}
	}
	e.s.uint(colNum, uint64(at))
	e.s.bytes(colText, content[:at])
	e.s.byte(colNum, how)
	if how == metaRaw {
		return
	}
	rest := content[at+len(record):]
	e.s.uint(colNum, uint64(len(rest)))
	e.s.bytes(colText, rest)
}

// findPath finds the record of the path among PAX records.
func findPath(content []byte) (path string, at int, ok bool) {
	for at < len(content) {
		rest := content[at:]
		sp := bytes.IndexByte(rest, ' ')
		if sp < 1 || sp > 10 {
			return "", 0, false
		}
		n, err := strconv.Atoi(string(rest[:sp]))
		if err != nil || n <= sp+1 || n > len(rest) || rest[n-1] != '\n' {
			return "", 0, false
		}
		if v, ok := bytes.CutPrefix(rest[sp+1:n-1], []byte("path=")); ok {
			return string(v), at, true
		}
		at += n
	}
	return "", 0, false
}
