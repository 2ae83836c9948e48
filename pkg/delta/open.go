package delta

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// A Reader makes the layers of the target from a delta and the base, one after
// the other, like a tar.Reader goes through its entries: Next goes to a layer,
// Read gives its uncompressed tar. It needs no temporary files, and keeps 50 MB
// at most, some 30 where much is new and 5 where little is, most of that not on
// the heap; how much the heap takes besides is up to the garbage collector
// (debug.SetGCPercent). It is used by one goroutine at a time.
type Reader struct {
	in     blockReader
	base   FileSource
	layers []digest.Digest
	sizes  []int64
	layer  int // which of them is being read; -1 before the first Next
	ended  bool
	err    error

	c       cursor
	damaged bool  // the delta itself is
	left    int64 // bytes that the layer still has, as the head says
	names   *namer
	headers headerModel
	pending *name // of the entry whose name an entry before it carried
	ledger  ledger

	sum  hash.Hash // of the layer so far
	buf  []byte    // made, of which out is not read yet
	out  []byte
	made content
	page page
	dict *[dictPages]dictPage
	gz   *gzipper
	raw  []byte // what goes into it
}

// Open reads the head of a delta. Neither r nor base is closed by the Reader.
// The error is an ErrVersion if the delta needs a newer version of this package,
// an ErrFormat if it is none.
func Open(r io.Reader, base FileSource) (*Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head := make([]byte, len(magic)+2)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, cutOff(err)
	}
	if !bytes.HasPrefix(head, []byte(magic)) {
		return nil, formatErr("not a delta")
	}
	if v := head[len(magic)]; v != Version {
		return nil, fmt.Errorf("%w %d", ErrVersion, v)
	}
	dec, err := newBlockDecoder(head[len(magic)+1])
	if err != nil {
		return nil, err
	}
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, cutOff(err)
	}
	if n > maxLayers {
		return nil, formatErr("%d layers", n)
	}
	d := &Reader{in: blockReader{in: in}, c: cursor{dec: dec}, base: base, layer: -1, ended: true, ledger: ledger{keep: true}}
	for range n {
		var sum [sha256.Size]byte
		if _, err := io.ReadFull(in, sum[:]); err != nil {
			return nil, cutOff(err)
		}
		size, err := binary.ReadUvarint(in)
		if err != nil {
			return nil, cutOff(err)
		}
		if size > maxSize {
			return nil, formatErr("layer of %d bytes", size)
		}
		d.layers = append(d.layers, digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:])))
		d.sizes = append(d.sizes, int64(size))
	}
	return d, nil
}

// Layers lists the diffIDs of the layers that the delta carries, in order.
func (d *Reader) Layers() []digest.Digest { return d.layers }

// Sizes lists how long the layers' tars are. A Reader makes no byte more of a
// layer than this; whether there is room for so much is for the caller to see.
func (d *Reader) Sizes() []int64 { return d.sizes }

// Next goes to the next layer, past what is left of the one before, and returns
// its diffID; io.EOF after the last one.
func (d *Reader) Next() (digest.Digest, error) {
	if !d.ended {
		if _, err := io.Copy(io.Discard, d); err != nil {
			return "", err
		}
	}
	if d.err != nil && !errors.Is(d.err, io.EOF) {
		return "", d.err
	}
	if d.layer+1 == len(d.layers) {
		if d.err == nil {
			d.err = d.end()
		}
		return "", d.err
	}
	d.layer++
	d.ended, d.pending, d.left = false, nil, d.sizes[d.layer]
	d.sum = sha256.New()
	d.names = newNamer(d.base, &d.ledger)
	return d.layers[d.layer], nil
}

// end makes sure that nothing follows the last layer.
func (d *Reader) end() error {
	if !d.c.empty() {
		return formatErr("operations after the last layer")
	}
	if err := d.in.readBlock(&d.c); !errors.Is(err, io.EOF) {
		return errors.Join(formatErr("more than the layers"), err)
	}
	return io.EOF
}

// Read reads from the layer that Next went to. At its end it is io.EOF if the
// bytes are those that the diffID promises; else the error says whether a file
// of the base is at fault (ErrBase) or not. A Reader that failed stays so.
func (d *Reader) Read(p []byte) (int, error) {
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		if d.ended {
			return 0, io.EOF
		}
		d.buf = d.buf[:0]
		err := d.step()
		if err == nil {
			err = d.c.err
		}
		if err == nil {
			d.left -= int64(len(d.buf))
			err = d.bounds()
		}
		if err != nil {
			d.err = d.blame(err)
			d.made.close()
			return 0, d.err
		}
		d.out = d.buf
		d.sum.Write(d.out)
		if d.ended {
			if got := digest.NewDigest(digest.SHA256, d.sum); got != d.layers[d.layer] {
				d.err = fmt.Errorf("%w: %s instead of %s", ErrDigest, got, d.layers[d.layer])
				return 0, d.err
			}
		}
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	return n, nil
}

// blame finds the base file behind an operation that makes no sense: blocks are
// checked before they are decoded, so that a file whose size is not as expected
// is the likelier reason.
func (d *Reader) blame(err error) error {
	if d.damaged || d.c.damaged || !errors.Is(err, ErrFormat) {
		return err
	}
	if d.made.file != nil {
		return &BaseError{Path: d.made.path, Err: err}
	}
	if n := len(d.ledger.paths); n > 0 {
		return &BaseError{Path: d.ledger.paths[n-1], Err: err}
	}
	return err
}

// bounds holds what is to be made against the size that the head tells. Sizes of
// base files count in it: which of them is not as it was, only a check tells.
func (d *Reader) bounds() error {
	switch over := d.made.rest() > d.left || d.left < 0; {
	case d.ended && d.left != 0:
		return d.lie("the layer ends %d bytes early", d.left)
	case !over:
		return nil
	case d.made.declared > d.sizes[d.layer] || d.ledger.n == 0 && d.made.file == nil:
		return d.lie("more than the %d bytes of the layer", d.sizes[d.layer])
	}
	return fmt.Errorf("%w: the layer becomes too long with its files", ErrBase)
}

func (d *Reader) lie(what string, args ...any) error {
	d.damaged = true
	return formatErr(what, args...)
}

// fetch sees to it that there is something to decode: the next block once
// everything of this one is used up.
func (d *Reader) fetch() error {
	if !d.c.empty() {
		return nil
	}
	err := d.in.readBlock(&d.c)
	if errors.Is(err, io.EOF) {
		err = formatErr("it ends within a layer")
	}
	d.damaged = err != nil
	return err
}

// step does one operation, which appends at most about a megabyte to buf.
func (d *Reader) step() error {
	if d.made.left > 0 {
		return d.content()
	}
	if d.made.active {
		return d.endContent()
	}
	if err := d.fetch(); err != nil {
		return err
	}
	switch op := d.c.byte(colOps); op {
	case opEnd:
		d.ended = true
		return d.check()
	case opCheck:
		return d.check()
	case opRaw:
		d.buf = append(d.buf, d.c.bytes(colData, int(d.c.uint(colNum, litPiece)))...)
		return nil
	case opZero:
		n := int64(d.c.uint(colNum, maxSize))
		d.made = content{active: true, how: madeZero, left: n, declared: n}
		return nil
	default:
		if op&^0xf != opEntry && op&^0xf != opWay {
			return formatErr("unknown operation %#x", op)
		}
		return d.entry(op)
	}
}

func (d *Reader) check() error {
	b := d.c.bytes(colField, 16)
	if d.c.err != nil {
		return d.c.err
	}
	return d.ledger.check(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
}

// entry decodes a header and prepares for its content.
func (d *Reader) entry(op byte) error {
	flag := d.c.byte(colOps)
	var way byte
	if op&^0xf == opWay {
		if way = d.c.byte(colOps); !validWay(way, op&0x7) || kindOf(flag) == kindMeta {
			return formatErr("unknown way %#x to make content", way)
		}
	}
	if d.ledger.n >= maxSources {
		return formatErr("too many base files without a check")
	}
	var n name
	var err error
	if d.pending != nil && kindOf(flag) != kindMeta {
		n, d.pending = *d.pending, nil
	} else {
		n, err = d.names.decode(&d.c)
		if errors.Is(err, errNoName) {
			err = &BaseError{Path: d.names.dir(), Err: err}
		}
		if err != nil {
			return err
		}
		if hasPath(flag) {
			d.pending = &n
		}
	}
	how, rawPad := op&0x7, op&madePadding != 0
	d.made = content{active: true, how: how, path: n.path, rawPad: rawPad, filter: filter(way & wayFilter >> 2), inflate: way&wayInflate != 0}
	if how == madeBase || how == madeFrom || how == madeFromSize || way&wayDict == wayOther {
		d.made.path = d.basePath(n.path)
	}
	var meta []byte
	switch how {
	case madeNone:
	case madeSame, madeBase, madePatch, madeFrom:
		if err := d.made.open(d.base, &d.page); err != nil {
			return err
		}
		d.made.left = d.made.size
	case madePatchSize, madeFromSize:
		d.made.left = int64(d.c.uint(colNum, maxSize))
		d.made.declared = d.made.left
		if err := d.made.open(d.base, &d.page); err != nil {
			return err
		}
	case madeLiteral:
		if kindOf(flag) == kindMeta {
			meta = d.meta(n)
			d.made.left = int64(len(meta))
			break
		}
		d.made.left = int64(d.c.uint(colNum, maxSize))
		d.made.declared = d.made.left
		if way&wayDict != wayNoDict {
			if err := d.openDict(); err != nil {
				return err
			}
		}
	}
	size := d.made.left
	var head []byte
	if way&wayGzip != 0 {
		size, head = d.openGzip()
	}
	d.made.pad = int(-size & (blockSize - 1))
	var link string
	if flag == '2' && n.path != "" {
		if link, err = readlink(d.base, &d.ledger, n.path); err != nil {
			return err
		}
	}
	d.buf = append(d.buf, make([]byte, blockSize)...)
	d.headers.decode(&d.c, d.buf[len(d.buf)-blockSize:], flag, n, size, link)
	if meta != nil {
		d.buf = append(d.buf, meta...)
		d.made.left = 0
	}
	d.buf = append(d.buf, head...)
	return d.c.err
}

// validWay tells whether content made so can be made in this way.
func validWay(way, how byte) bool {
	base := how >= madePatch || way&wayDict != wayNoDict
	return way&^wayMask == 0 && way&wayDict <= wayOther && way&wayFilter>>2 < numFilters &&
		how >= madeLiteral && (how == madeLiteral || way&(wayDict|wayFilter) == 0) && (base || way&wayInflate == 0)
}

// openGzip prepares to compress what is made; it returns how long the file gets,
// and what it begins with.
func (d *Reader) openGzip() (size int64, head []byte) {
	m, c := &d.made, &d.c
	size = int64(c.uint(colNum, maxSize))
	level := int(c.uint(colNum, 9))
	head = bytes.Clone(c.bytes(colText, int(c.uint(colNum, maxGzipHead))))
	if c.err == nil && (level < gzMinLevel || size < int64(len(head)) || m.left == 0) {
		c.fail("compressed file out of bounds")
	}
	if c.err != nil {
		return 0, nil
	}
	if d.gz == nil {
		d.gz = &gzipper{}
	}
	d.gz.reset(level)
	m.gz, m.outer, m.declared = d.gz, size-int64(len(head)), size
	return size, head
}

// openDict puts the base file that new content refers to into the history of the
// data column.
func (d *Reader) openDict() error {
	sum := d.c.bytes(colField, 4)
	if d.c.err != nil {
		return d.c.err
	}
	m := &d.made
	if err := m.open(d.base, &d.page); err != nil {
		return err
	}
	if d.dict == nil {
		d.dict = new([dictPages]dictPage)
	}
	for i := range d.dict {
		d.dict[i].number = 0
	}
	m.dict = &dictionary{path: m.path, file: m.file, size: uint64(m.size), code: m.filter, pages: d.dict}
	m.file = nil
	if m.dict.size > maxDict {
		return &BaseError{Path: m.path, Err: errChanged}
	}
	if err := m.dict.verify(binary.LittleEndian.Uint32(sum)); err != nil {
		return err
	}
	return d.setDict(m.dict)
}

func (d *Reader) setDict(dict *dictionary) error {
	if len(d.c.cols[colData]) > 0 {
		return d.lie("a part of new content goes on beyond its file")
	}
	if !d.c.dec.setDict(dict) {
		return d.lie("this codec has no dictionaries")
	}
	return nil
}

// basePath decodes the path of a base file by how it differs from an entry's.
func (d *Reader) basePath(p string) string {
	head, tail := int(d.c.uint(colNum, maxPath)), int(d.c.uint(colNum, maxPath))
	mid := d.c.string(colText, int(d.c.uint(colNum, maxPath)))
	if head+tail > len(p) {
		d.c.fail("base path out of bounds")
		return ""
	}
	return p[:head] + mid + p[len(p)-tail:]
}

// meta decodes the content of a PAX or GNU entry; not nil.
func (d *Reader) meta(n name) []byte {
	head := int(d.c.uint(colNum, maxMeta))
	b := append([]byte{}, d.c.bytes(colText, head)...)
	switch d.c.byte(colNum) {
	case metaRaw:
		return b
	case metaPAX:
		b = append(b, paxPath(n.raw)...)
	case metaGNU:
		b = append(append(b, n.raw...), 0)
	default:
		d.c.fail("unknown kind of PAX content")
	}
	return append(b, d.c.bytes(colText, int(d.c.uint(colNum, maxMeta)))...)
}
