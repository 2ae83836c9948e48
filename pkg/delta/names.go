package delta

import (
	"errors"
	"hash/crc32"
	"io/fs"
	"sort"
	"strings"
)

// How a name follows from the one before it, in the low bits of its code.
const (
	nameNext    = 0 // the next one in the base
	nameSibling = 1 // another one in a folder of the base
	nameNew     = 2 // one that the base lacks
	nameRaw     = 3 // bytes that are not the name of anything

	nameSlash = 1 << 2 // flag: a trailing slash where none is expected, or the reverse
	nameStyle = 1 << 3 // flag: the way to write names changes
	nameUp    = 1 << 4 // the unit in which folders to leave are counted
)

// The ways to write the same name.
var nameStyles = []string{"", "./", "/"}

// A namer predicts the names of a tar from the folders of the base: archives
// are written in the order of a walk, so that after one name the base's next
// is most likely. Encoder and decoder have one each, which see the same names.
type namer struct {
	src    FileSource
	ledger *ledger
	style  int
	last   []string
	folder bool // the last name is a folder's
	lists  []listing
}

// A listing is what the base has in a folder.
type listing struct {
	loaded bool
	ents   []Dirent
}

// A name is a path in an archive.
type name struct {
	raw  string // as the archive has it
	path string // within the image; "" for what is not a path in it
}

func newNamer(src FileSource, l *ledger) *namer {
	return &namer{src: src, ledger: l, lists: make([]listing, 1)}
}

// list returns the listing of the folder made of the last name's first n
// components; one that does not exist has nothing in it.
func (m *namer) list(n int) ([]Dirent, error) {
	if m.lists[n].loaded {
		return m.lists[n].ents, nil
	}
	dir := strings.Join(m.last[:n], "/")
	ents, err := m.src.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &BaseError{Path: dir, Err: err}
	}
	var sum uint32
	if err != nil {
		sum = 1
	}
	for _, e := range ents {
		kind := byte('f')
		switch e.Type {
		case fs.ModeDir:
			kind = 'd'
		case fs.ModeSymlink:
			kind = 'l'
		}
		sum = crc32.Update(sum, castagnoli, append([]byte(e.Name), 0, kind))
	}
	m.ledger.add(dir, sum)
	m.lists[n] = listing{true, ents}
	return ents, nil
}

// next is where the walk through the base goes after the last name: the entry
// number i of the folder made of the last name's first n components.
func (m *namer) next() (n, i int, ok bool, err error) {
	n = len(m.last)
	if m.folder {
		ents, err := m.list(n)
		if err != nil {
			return 0, 0, false, err
		}
		if len(ents) > 0 {
			return n, 0, true, nil
		}
	}
	for n > 0 {
		n--
		i, ents, err := m.after(n)
		if err != nil {
			return 0, 0, false, err
		}
		if i < len(ents) {
			return n, i, true, nil
		}
	}
	return 0, 0, false, nil
}

// after finds the first entry behind the last name in one of the folders that
// lead to it.
func (m *namer) after(n int) (int, []Dirent, error) {
	ents, err := m.list(n)
	if err != nil || n == len(m.last) {
		return 0, ents, err
	}
	return sort.Search(len(ents), func(i int) bool { return ents[i].Name > m.last[n] }), ents, nil
}

func (m *namer) set(parts []string, folder bool) {
	keep := common(parts, m.last)
	lists := append([]listing(nil), m.lists[:keep+1]...)
	for len(lists) <= len(parts) {
		lists = append(lists, listing{})
	}
	m.last, m.lists, m.folder = parts, lists, folder
}

// split takes a name apart; ok is false for what no walk comes upon.
func split(raw string) (style int, parts []string, slash, ok bool) {
	rest := raw
	for i, s := range nameStyles[1:] {
		if strings.HasPrefix(raw, s) {
			style, rest = i+1, raw[len(s):]
			break
		}
	}
	if len(raw) > maxPath || raw == "" {
		return 0, nil, false, false
	}
	if rest == "" {
		return style, nil, false, true
	}
	rest, slash = strings.CutSuffix(rest, "/")
	parts = strings.Split(rest, "/")
	for _, p := range parts {
		if !validName(p) {
			return 0, nil, false, false
		}
	}
	return style, parts, slash, len(parts) <= maxDepth
}

func (m *namer) encode(s *sheet, raw string) (name, error) {
	style, parts, slash, ok := split(raw)
	if !ok {
		s.uint(colNames, nameRaw)
		s.uint(colNum, uint64(len(raw)))
		s.string(colText, raw)
		return name{raw: raw}, nil
	}
	var flags uint64
	if style != m.style {
		flags = nameStyle
	}
	keep := common(parts, m.last)
	kind, skip, predicted := uint64(nameNew), 0, false
	n, i, ok, err := m.next()
	if err != nil {
		return name{}, err
	}
	up := uint64(len(m.last) - keep)
	if keep == len(parts)-1 {
		at, ents, err := m.after(keep)
		if err != nil {
			return name{}, err
		}
		j := sort.Search(len(ents), func(i int) bool { return ents[i].Name >= parts[keep] })
		if j < len(ents) && ents[j].Name == parts[keep] {
			kind, skip, predicted = nameSibling, j-at, ents[j].Type == fs.ModeDir
			if ok && n == keep && i == j {
				kind, up = nameNext, 0
			}
		}
	}
	if slash != predicted {
		flags |= nameSlash
	}
	s.uint(colNames, kind|flags|up*nameUp)
	if flags&nameStyle != 0 {
		s.byte(colNames, byte(style))
	}
	switch kind {
	case nameSibling:
		s.int(colNames, int64(skip))
	case nameNew:
		rest := strings.Join(parts[keep:], "/")
		s.uint(colNames, uint64(len(rest)))
		s.string(colText, rest)
	}
	m.style = style
	m.set(parts, slash)
	return name{raw: raw, path: strings.Join(parts, "/")}, nil
}

func (m *namer) decode(c *cursor) (name, error) {
	code := c.uint(colNames, maxDepth*nameUp*2)
	if code&3 == nameRaw {
		return name{raw: c.string(colText, int(c.uint(colNum, maxMeta)))}, c.err
	}
	style := m.style
	if code&nameStyle != 0 {
		style = int(c.byte(colNames))
	}
	n, up := len(m.last), int(code/nameUp)
	if c.err != nil || up > n || style >= len(nameStyles) {
		c.fail("name out of bounds")
		return name{}, c.err
	}
	// The encoder asks for the next name whatever it takes: both sides
	// have to read the same folders.
	nn, ni, ok, err := m.next()
	if err != nil {
		return name{}, err
	}
	n -= up
	var parts []string
	folder := code&nameSlash != 0
	switch code & 3 {
	case nameNext:
		if !ok {
			// Either is at fault; the ledger knows.
			return name{}, errNoName
		}
		e := m.lists[nn].ents[ni]
		parts = append(append(parts, m.last[:nn]...), e.Name)
		folder = folder != (e.Type == fs.ModeDir)
	case nameSibling:
		at, ents, err := m.after(n)
		if err != nil {
			return name{}, err
		}
		skip := c.int(colNames)
		if c.err != nil || skip < -int64(at) || skip >= int64(len(ents)-at) {
			return name{}, errNoName
		}
		e := ents[at+int(skip)]
		parts = append(append(parts, m.last[:n]...), e.Name)
		folder = folder != (e.Type == fs.ModeDir)
	case nameNew:
		rest := c.string(colText, int(c.uint(colNames, maxPath)))
		if c.err != nil {
			return name{}, c.err
		}
		parts = append(parts, m.last[:n]...)
		if rest != "" {
			parts = append(parts, strings.Split(rest, "/")...)
		}
		for _, p := range parts[n:] {
			if !validName(p) {
				return name{}, formatErr("invalid name %q", p)
			}
		}
		// The encoder looks into the folder of a name that differs in its
		// last component only.
		if same := common(parts, m.last); same == len(parts)-1 {
			if _, err := m.list(same); err != nil {
				return name{}, err
			}
		}
	}
	p := strings.Join(parts, "/")
	if len(p) > maxPath || len(parts) > maxDepth {
		return name{}, formatErr("name too long")
	}
	raw := nameStyles[style] + p
	if folder && len(parts) > 0 {
		raw += "/"
	}
	m.style = style
	m.set(parts, folder)
	return name{raw: raw, path: p}, nil
}

// errNoName: the base lacks a name that the delta counts on, or the delta is
// damaged.
var errNoName = errors.New("a name that the delta counts on is not in the base")

func common(a, b []string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// dir is the folder of the last name.
func (m *namer) dir() string {
	return strings.Join(m.last[:max(0, len(m.last)-1)], "/")
}
