package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// magic is what the function table of Go 1.20 and later begins with.
const magic = 0xfffffff1

// Fields of a function's record (runtime._func), in bytes from its start.
const (
	fieldName    = 4
	fieldPCSP    = 16
	fieldPCFile  = 20
	fieldPCLine  = 24
	fieldTables  = 28 // how many tables follow the record
	fieldFunData = 43
	recordLen    = 44
)

// table is a binary's function table, which is there in stripped binaries too,
// since stack traces need it.
type table struct {
	order         binary.ByteOrder
	names, pcs    []byte
	funcs         []byte // the index, then the records
	n             int
	seenName      map[uint32]bool
	seenPCs       map[uint32]bool
	code, entries map[string]int // by package
}

// packages gives the bytes that each package's functions take in an ELF binary
// of Go: their code, their names and what the table holds of them. What is no
// function's is under "(SECTION)".
func packages(file string) (map[string]int, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".gopclntab")
	if section == nil {
		return nil, errors.New("no function table: not a Go binary")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	t, err := newTable(data, f.ByteOrder)
	if err != nil {
		return nil, err
	}
	code, entries := t.count()
	sizes := t.code
	for pkg, n := range t.entries {
		sizes[pkg] += n
	}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NULL {
			continue
		}
		size := int(s.FileSize)
		switch s.Name {
		case ".text":
			size -= code
		case ".gopclntab":
			size -= entries
		}
		sizes["("+strings.TrimPrefix(s.Name, ".")+")"] += size
	}
	return sizes, nil
}

func newTable(data []byte, order binary.ByteOrder) (*table, error) {
	if len(data) < 72 || order.Uint32(data) != magic {
		return nil, errors.New("a function table of another version of Go")
	}
	word := int(data[7])
	read := func(i int) int {
		if word == 4 {
			return int(order.Uint32(data[8+4*i:]))
		}
		return int(order.Uint64(data[8+8*i:]))
	}
	// number of functions, of files, start of the code, then the parts' offsets
	names, units, pcs, funcs := read(3), read(4), read(6), read(7)
	if names > units || units > pcs || pcs > funcs || funcs > len(data) {
		return nil, errors.New("a function table out of order")
	}
	return &table{
		order: order, names: data[names:units], pcs: data[pcs:funcs], funcs: data[funcs:], n: read(0),
		seenName: map[uint32]bool{}, seenPCs: map[uint32]bool{},
		code: map[string]int{}, entries: map[string]int{},
	}, nil
}

// count sums up by package and returns the totals.
func (t *table) count() (code, entries int) {
	for i := range t.n {
		size := int(t.order.Uint32(t.funcs[8*(i+1):]) - t.order.Uint32(t.funcs[8*i:]))
		record := t.funcs[t.order.Uint32(t.funcs[8*i+4:]):]
		name := t.order.Uint32(record[fieldName:])
		full := t.name(name)
		pkg := packageOf(full)
		tables := int(t.order.Uint32(record[fieldTables:]))
		entry := 8 + recordLen + 4*tables + 4*int(record[fieldFunData])
		if !t.seenName[name] {
			t.seenName[name] = true
			entry += len(full) + 1
		}
		for _, field := range []int{fieldPCSP, fieldPCFile, fieldPCLine} {
			entry += t.pcTable(t.order.Uint32(record[field:]))
		}
		for j := range tables {
			entry += t.pcTable(t.order.Uint32(record[recordLen+4*j:]))
		}
		t.code[pkg] += size
		t.entries[pkg] += entry
		code += size
		entries += entry
	}
	return code, entries
}

func (t *table) name(offset uint32) string {
	b, _, _ := bytes.Cut(t.names[offset:], []byte{0})
	return string(b)
}

// pcTable is the length of a table of pairs (change of value, change of PC),
// both as varints, up to a pair that begins with 0. Functions share tables: the
// first has it.
func (t *table) pcTable(offset uint32) int {
	if offset == 0 || t.seenPCs[offset] {
		return 0
	}
	t.seenPCs[offset] = true
	b := t.pcs[offset:]
	for n, first := 0, true; ; first = false {
		value, width := binary.Uvarint(b[n:])
		n += width
		if value == 0 && !first || width <= 0 {
			return n
		}
		_, width = binary.Uvarint(b[n:])
		n += width
	}
}

// packageOf is the package of a function's name: `path/of/pkg.(*T).Method`,
// also of instances of generics and of generated functions.
func packageOf(name string) string {
	name, _, _ = strings.Cut(name, "[")
	if strings.HasPrefix(name, "type:") || strings.HasPrefix(name, "go:") {
		return fmt.Sprintf("(%s)", name[:strings.Index(name, ":")])
	}
	slash := strings.LastIndex(name, "/")
	dot := strings.Index(name[slash+1:], ".")
	if dot < 0 {
		return "(C)"
	}
	return strings.ReplaceAll(name[:slash+1+dot], "%2e", ".")
}
