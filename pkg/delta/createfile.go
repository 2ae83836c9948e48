package delta

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// header codes what comes before the content: the operation, the name, the base
// file, the content's size where the base file does not give it, the header.
func (e *encoder) header(block []byte, p plan, content []byte, size int64, raw string, rawPad bool) (name, error) {
	flag := block[156]
	op, way := opEntry|p.how, p.way()
	if way != 0 {
		op = opWay | p.how
	}
	if rawPad {
		op |= madePadding
	}
	e.s.byte(colOps, op)
	e.s.byte(colOps, flag)
	if way != 0 {
		e.s.byte(colOps, way)
	}
	var n name
	if e.pending != nil && kindOf(flag) != kindMeta {
		n, e.pending = *e.pending, nil
	} else {
		var err error
		if n, err = e.names.encode(&e.s, raw); err != nil {
			return n, err
		}
		if hasPath(flag) {
			e.pending = &n
		}
	}
	how := p.how
	if how == madeBase || how == madeFrom || how == madeFromSize || way&wayDict == wayOther {
		head, tail := affixes(n.path, p.from)
		e.s.uint(colNum, uint64(head))
		e.s.uint(colNum, uint64(tail))
		e.s.uint(colNum, uint64(len(p.from)-head-tail))
		e.s.string(colText, p.from[head:len(p.from)-tail])
	}
	switch {
	case how == madeLiteral && kindOf(flag) == kindMeta:
		e.metaContent(flag, n, content)
	case how == madeLiteral || how == madePatchSize || how == madeFromSize:
		made := size
		if p.gz != nil {
			made = int64(len(p.gz.inner))
		}
		e.s.uint(colNum, uint64(made))
	}
	if way&wayDict != wayNoDict {
		e.s.bytes(colField, binary.LittleEndian.AppendUint32(nil, crc32.Checksum(p.old, castagnoli)))
	}
	if p.gz != nil {
		e.s.uint(colNum, uint64(size))
		e.s.uint(colNum, uint64(p.gz.level))
		e.s.uint(colNum, uint64(len(p.gz.head)))
		e.s.bytes(colText, p.gz.head)
	}
	var link string
	if flag == '2' && n.path != "" {
		var err error
		if link, err = readlink(e.base, &e.ledger, n.path); err != nil {
			return n, err
		}
	}
	e.headers.encode(&e.s, block, n, size, link)
	return n, nil
}

// nextName is the name that the next entry goes by.
func (e *encoder) nextName(block []byte) string {
	if e.pending != nil {
		return e.pending.raw
	}
	return headerName(block)
}

func (e *encoder) file(block, content, pad []byte) error {
	rawPad := !allZero(pad)
	raw := e.nextName(block)
	var p plan
	if len(content) > 0 {
		_, parts, _, ok := split(raw)
		path := ""
		if ok {
			path = strings.Join(parts, "/")
		}
		var err error
		if p, err = e.plan(path, content); err != nil {
			return err
		}
	}
	if _, err := e.header(block, p, nil, int64(len(content)), raw, rawPad); err != nil {
		return err
	}
	size := int64(len(content))
	if p.gz != nil {
		content = p.gz.inner
	}
	switch p.how {
	case madeNone:
	case madeSame, madeBase:
		e.sum.Same++
		e.sum.SameBytes += size
		e.enter(p.from, crc32.Checksum(content, castagnoli), size)
	case madeLiteral:
		e.sum.New++
		e.sum.NewBytes += size
		if err := e.literal(&p, content); err != nil {
			return err
		}
	default:
		e.sum.Patched++
		e.sum.PatchedBytes += size
		pw := patchWriter{s: &e.s, room: e.room, old: p.old, size: int64(len(p.old)), left: int64(len(content)), dense: p.dense}
		if err := pw.write(p.pieces, content); err != nil {
			return err
		}
		e.enter(p.from, pw.crc, int64(len(p.old)))
	}
	if rawPad {
		e.s.bytes(colData, pad)
	}
	return nil
}

// literal writes new content, filtered and with its dictionary.
func (e *encoder) literal(p *plan, content []byte) error {
	if p.filter != filterNone {
		content = bytes.Clone(content)
		p.filter.encode(content, 0)
	}
	if p.dict != wayNoDict {
		old := p.old
		if p.filter != filterNone {
			old = bytes.Clone(old)
			p.filter.encode(old, 0)
		}
		e.s.dict(old)
	}
	for i, part := range pieces(content) {
		if i > 0 {
			if err := e.room(); err != nil {
				return err
			}
		}
		e.s.bytes(colData, part)
	}
	if p.dict != wayNoDict {
		e.s.dict(nil)
	}
	return nil
}

// enter notes a base file in the ledger as content.digest does.
func (e *encoder) enter(path string, crc uint32, size int64) {
	e.ledger.add(path, (&content{crc: crc, size: size}).digest())
}

// pieces cuts literal content.
func pieces(b []byte) [][]byte {
	var out [][]byte
	for len(b) > litPiece {
		out = append(out, b[:litPiece])
		b = b[litPiece:]
	}
	return append(out, b)
}
