package delta

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strconv"
	"strings"
)

const blockSize = 512

// The fields of a tar header, in the order in which they are coded; the type
// flag (byte 156) stands with the operation. Owners' names, magic and version
// are one field, and so are the device numbers.
const (
	fieldName = iota
	fieldMode
	fieldUID
	fieldGID
	fieldSize
	fieldTime
	fieldSum
	fieldLink
	fieldOwner
	fieldDevice
	fieldPrefix
	fieldRest
	numFields
)

var fields = [numFields]struct{ off, len int }{
	{0, 100}, {100, 8}, {108, 8}, {116, 8}, {124, 12}, {136, 12}, {148, 8}, {157, 100}, {257, 72}, {329, 16}, {345, 155}, {500, 12},
}

// What stands in the index column instead of the number of a remembered value.
const (
	valueNumber = 253 // the remembered number plus a difference
	valueString = 254 // a string, filled up with zeros
	valueFull   = 255 // the field's bytes
)

// A headerModel predicts headers from those before them. Encoder and decoder
// have one each.
type headerModel struct {
	// recent values of a field, by kind of entry, latest first
	recent [numKinds][numFields][][]byte
	// times of the last entries of the same kind of name
	times [numEndings][]byte
}

const numEndings = 256

const (
	kindFile = iota
	kindFolder
	kindLink
	kindMeta
	kindOther
	numKinds
)

func kindOf(flag byte) int {
	switch flag {
	case '0', 0, '7', 'S':
		return kindFile
	case '5':
		return kindFolder
	case '1', '2':
		return kindLink
	case 'x', 'g', 'L', 'K':
		return kindMeta
	}
	return kindOther
}

// hasContent tells whether blocks of content follow the header.
func hasContent(flag byte) bool { return flag < '1' || flag > '6' }

// hasPath tells whether the entry only carries another's name.
func hasPath(flag byte) bool { return flag == 'x' || flag == 'L' }

// predicted is the first guess for a field; nil where the latest value is it.
func predicted(f int, flag byte, n name, size int64, link string) []byte {
	switch f {
	case fieldName, fieldPrefix:
		raw, prefix := n.raw, ""
		if flag == 'x' {
			dir, base := path.Split(raw)
			raw = path.Join(dir, "PaxHeaders.0", base)
		} else if flag == 'L' {
			raw = "././@LongLink"
		} else if p, rest, ok := splitUSTAR(raw); ok {
			prefix, raw = p, rest
		}
		if f == fieldPrefix {
			return fill(prefix, fields[f].len)
		}
		return fill(cutName(raw), fields[f].len)
	case fieldSize:
		return fill(octal(size, 12), 12)
	case fieldLink:
		return fill(cutName(link), fields[f].len)
	}
	return nil
}

// splitUSTAR cuts a name that is too long at a slash, as late as possible.
func splitUSTAR(s string) (prefix, rest string, ok bool) {
	if len(s) <= 100 || len(s) > 256 || !ascii(s) {
		return "", "", false
	}
	n := min(len(s), 156)
	if strings.HasSuffix(s[:n], "/") && n == len(s) {
		n--
	}
	i := strings.LastIndexByte(s[:n], '/')
	if i <= 0 || len(s)-i-1 > 100 || len(s)-i-1 == 0 || i > 155 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// cutName is how writers shorten a name that stands elsewhere in full: no
// bytes beyond ASCII, and no slash at the cut.
func cutName(s string) string {
	if len(s) <= 100 {
		return s
	}
	if !ascii(s) {
		s = string(slices.DeleteFunc([]byte(s), func(b byte) bool { return b >= 0x80 }))
	}
	if len(s) > 100 && s[99] == '/' {
		return strings.TrimRight(s[:100], "/")
	}
	return s[:min(len(s), 100)]
}

func fill(s string, n int) []byte {
	b := make([]byte, n)
	copy(b, s)
	return b
}

// octal writes a number as Go's, GNU's and most other writers do.
func octal(v int64, width int) string { return fmt.Sprintf("%0*o\x00", width-1, v) }

// number reads a field that octal would write the same.
func number(b []byte) (int64, bool) {
	v, err := strconv.ParseUint(string(b[:len(b)-1]), 8, 62)
	return int64(v), err == nil && octal(int64(v), len(b)) == string(b)
}

// checksum computes both the sum and how it is written.
func checksum(block []byte) string {
	sum := 8 * int(' ')
	for i, b := range block[:blockSize] {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	return fmt.Sprintf("%06o\x00 ", sum)
}

// shared tells which kinds of entries learn a field from each other.
func shared(kind, f int) int {
	switch f {
	case fieldMode, fieldDevice:
		return kind
	}
	if kind == kindMeta {
		return kind
	}
	return kindFile
}

func (m *headerModel) list(flag byte, f int) *[][]byte {
	return &m.recent[shared(kindOf(flag), f)][f]
}

// ending is a number for what a name ends with: files written by one program, at
// one time, often end alike. All folders are the same.
func ending(flag byte, n name) int {
	end := "/"
	if kindOf(flag) != kindFolder {
		base := n.raw[strings.LastIndexByte(n.raw, '/')+1:]
		if end = ""; strings.Contains(base, ".") {
			end = base[strings.LastIndexByte(base, '.'):]
		}
	}
	return int(crc32.Checksum([]byte(end), castagnoli) % numEndings)
}

// guess is what a field that is remembered is predicted to be.
func (m *headerModel) guess(flag byte, f int, n name) []byte {
	if f == fieldTime && kindOf(flag) != kindMeta {
		if t := m.times[ending(flag, n)]; t != nil {
			return t
		}
	}
	return latest(*m.list(flag, f), f)
}

// note remembers the time of an entry.
func (m *headerModel) note(flag byte, f int, n name, v []byte) {
	if f == fieldTime && kindOf(flag) != kindMeta {
		m.times[ending(flag, n)] = slices.Clone(v)
	}
}

func latest(list [][]byte, f int) []byte {
	if len(list) > 0 {
		return list[0]
	}
	return make([]byte, fields[f].len)
}

func toFront(list *[][]byte, i int) {
	v := (*list)[i]
	copy((*list)[1:i+1], (*list)[:i])
	(*list)[0] = v
}

func remember(list *[][]byte, v []byte) {
	if len(*list) < mtfLen {
		*list = append(*list, nil)
	}
	copy((*list)[1:], *list)
	(*list)[0] = slices.Clone(v)
}

func (m *headerModel) encode(s *sheet, block []byte, n name, size int64, link string) {
	flag := block[156]
	var mask uint64
	for f := range numFields {
		have := block[fields[f].off:][:fields[f].len]
		guess := predicted(f, flag, n, size, link)
		if f == fieldSum {
			guess = []byte(checksum(block))
		}
		if guess != nil {
			if !bytes.Equal(have, guess) {
				mask |= 1 << f
				m.encodeValue(s, have, nil, f)
			}
			continue
		}
		list := m.list(flag, f)
		if bytes.Equal(have, m.guess(flag, f, n)) {
			continue
		}
		m.note(flag, f, n, have)
		mask |= 1 << f
		if i := slices.IndexFunc(*list, func(b []byte) bool { return bytes.Equal(b, have) }); i >= 0 {
			s.byte(colIndex, byte(i))
			toFront(list, i)
			continue
		}
		m.encodeValue(s, have, latest(*list, f), f)
		remember(list, have)
	}
	s.uint(colMask, mask)
}

func (m *headerModel) encodeValue(s *sheet, have, last []byte, f int) {
	if last != nil && f >= fieldMode && f <= fieldTime {
		if v, ok := number(have); ok {
			old, _ := number(last)
			s.byte(colIndex, valueNumber)
			s.int(colNum, v-old)
			return
		}
	}
	if str := bytes.TrimRight(have, "\x00"); len(str) < len(have) {
		s.byte(colIndex, valueString)
		s.byte(colField, byte(len(str)))
		s.bytes(colField, str)
		return
	}
	s.byte(colIndex, valueFull)
	s.bytes(colField, have)
}

// decode writes a header; size is that of the content.
func (m *headerModel) decode(c *cursor, block []byte, flag byte, n name, size int64, link string) {
	clear(block)
	block[156] = flag
	mask := c.uint(colMask, 1<<numFields-1)
	var sum []byte
	for f := range numFields {
		to := block[fields[f].off:][:fields[f].len]
		guess := predicted(f, flag, n, size, link)
		if mask&(1<<f) == 0 {
			if guess == nil {
				guess = m.guess(flag, f, n)
			}
			copy(to, guess)
			continue
		}
		i := c.byte(colIndex)
		if i < valueNumber {
			list := m.list(flag, f)
			if guess != nil || f == fieldSum || int(i) >= len(*list) {
				c.fail("header field out of bounds")
				return
			}
			toFront(list, int(i))
			copy(to, (*list)[0])
			m.note(flag, f, n, to)
			continue
		}
		learns := guess == nil && f != fieldSum
		switch i {
		case valueNumber:
			if !learns || f < fieldMode || f > fieldTime {
				c.fail("header field is not a number")
				return
			}
			old, _ := number(latest(*m.list(flag, f), f))
			v := old + c.int(colNum)
			str := octal(v, len(to))
			if v < 0 || len(str) != len(to) {
				c.fail("number does not fit its header field")
				return
			}
			copy(to, str)
		case valueString:
			n := int(c.byte(colField))
			if n > len(to) {
				c.fail("string does not fit its header field")
				return
			}
			copy(to, c.bytes(colField, n))
		case valueFull:
			copy(to, c.bytes(colField, len(to)))
		}
		if learns {
			remember(m.list(flag, f), to)
			m.note(flag, f, n, to)
		}
		if f == fieldSum {
			sum = slices.Clone(to)
		}
	}
	if sum == nil {
		sum = []byte(checksum(block))
	}
	copy(block[fields[fieldSum].off:], sum)
}
