package delta

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// Options for Create; the zero value is the default.
type Options struct {
	// Level trades time for size, 1 to 9; 0 is DefaultLevel. Level 1 uses
	// zstd, which is also applied three times as fast where much is new.
	Level int
	// Progress, if not nil, is told how many bytes of the target are done.
	Progress func(done int64)
}

// DefaultLevel is what Create uses when no level is asked for.
const DefaultLevel = 3

// A Summary says what a delta is made of.
type Summary struct {
	TargetSize   int64 // bytes of the layers' tars
	DeltaSize    int64
	Entries      int   // headers of the target
	Same         int   // files taken from the base as they are
	SameBytes    int64 // what is in them
	Patched      int   // files made from a base file
	PatchedBytes int64
	New          int // files that are in the delta in full
	NewBytes     int64
}

const (
	blockTarget = 2 << 20  // a block is written once it has so much
	maxWhole    = 64 << 20 // files beyond are coded window by window
	fileWindow  = 32 << 20
	baseWindow  = 32 << 20 // what is searched of its base, before and behind
)

// Create writes the delta that makes the target's layers from the files of a
// base image. Only those layers belong in target that a device with the base
// lacks, the lowest first. The same inputs give the same bytes. It keeps at most
// one file of the target and one of the base in memory, up to 64 and 256 MB,
// and a table of all files of the base: less than 1 GB in all.
func Create(ctx context.Context, base FileSource, target []LayerTar, w io.Writer, o Options) (Summary, error) {
	ix, err := newIndex(ctx, base)
	if err != nil {
		return Summary{}, err
	}
	if len(target) > maxLayers {
		return Summary{}, fmt.Errorf("more than %d layers", maxLayers)
	}
	out := &counter{w: w}
	codec := byte(codecLZ)
	if o.Level == 1 {
		codec = codecZstd
	}
	head := append([]byte(magic), Version, codec)
	head = binary.AppendUvarint(head, uint64(len(target)))
	var sizes []int64
	for _, l := range target {
		sum, err := hex.DecodeString(l.DiffID.Encoded())
		if err != nil || l.DiffID.Algorithm() != digest.SHA256 || len(sum) != sha256.Size {
			return Summary{}, fmt.Errorf("diffID %q is not a SHA-256", l.DiffID)
		}
		size, err := l.size(ctx)
		if err != nil {
			return Summary{}, fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
		head, sizes = binary.AppendUvarint(append(head, sum...), uint64(size)), append(sizes, size)
	}
	if _, err := out.Write(head); err != nil {
		return Summary{}, err
	}
	enc, err := newBlockEncoder(codec, o.Level)
	if err != nil {
		return Summary{}, err
	}
	e := &encoder{ctx: ctx, out: out, base: base, ix: ix, enc: enc, o: o}
	for i, l := range target {
		before := e.sum.TargetSize
		err := e.layer(l)
		if got := e.sum.TargetSize - before; err == nil && got != sizes[i] {
			err = fmt.Errorf("%w: the tar has %d bytes, not %d", ErrSize, got, sizes[i])
		}
		if err != nil {
			_ = e.written()
			return Summary{}, fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
	}
	if e.s.size() > 0 {
		if err := e.write(); err != nil {
			return Summary{}, err
		}
	}
	if err := e.written(); err != nil {
		return Summary{}, err
	}
	if _, err := out.Write([]byte{frameEnd}); err != nil {
		return Summary{}, err
	}
	e.sum.DeltaSize = out.n
	return e.sum, nil
}

// size finds out how long a layer is.
func (l LayerTar) size(ctx context.Context) (int64, error) {
	if l.Size > 0 {
		return l.Size, nil
	}
	r, err := l.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return io.Copy(io.Discard, r)
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// An encoder writes the operations of all layers.
type encoder struct {
	ctx  context.Context
	out  io.Writer
	base FileSource
	ix   *index
	enc  blockEncoder
	o    Options
	sum  Summary

	s       sheet
	coding  *sheet     // the block before, while it is coded in the background
	coded   chan error // how that went
	busy    bool
	names   *namer
	headers headerModel
	pending *name
	ledger  ledger

	hash  hash.Hash
	raw   []byte // not written yet, and what follows it:
	zeros int64
	buf   []byte // content of a file
}

// room makes the block end here if it is full. It is called before each
// operation, and nowhere else: a decoder takes the next block where one is due
// and the last is used up.
func (e *encoder) room() error {
	if e.s.size() < blockTarget {
		return nil
	}
	if err := e.ctx.Err(); err != nil {
		return err
	}
	return e.write()
}

// write has the block coded and written in the background, once that of the last
// one is done; the sheet is empty then.
func (e *encoder) write() error {
	if err := e.written(); err != nil {
		return err
	}
	s := e.s
	if e.coding == nil {
		e.coding, e.coded = &sheet{}, make(chan error, 1)
	}
	e.s, *e.coding = *e.coding, s
	e.busy = true
	go func() { e.coded <- writeBlock(e.out, e.enc, e.coding) }()
	return nil
}

func (e *encoder) written() error {
	if !e.busy {
		return nil
	}
	e.busy = false
	return <-e.coded
}

func (e *encoder) layer(l LayerTar) error {
	r, err := l.Open(e.ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	e.hash = sha256.New()
	e.names, e.pending = newNamer(e.base, &e.ledger), nil
	in := bufio.NewReaderSize(io.TeeReader(r, e), 64<<10)
	var block [blockSize]byte
	for {
		n, err := io.ReadFull(in, block[:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if err != nil {
			if err := e.rawBytes(block[:n]); err != nil {
				return err
			}
			break
		}
		if err := e.block(in, block[:]); err != nil {
			return err
		}
	}
	if err := e.flush(); err != nil {
		return err
	}
	if err := e.room(); err != nil {
		return err
	}
	e.s.byte(colOps, opEnd)
	e.check()
	if got := digest.NewDigest(digest.SHA256, e.hash); got != l.DiffID {
		return fmt.Errorf("the tar is %s", got)
	}
	return nil
}

// Write sees everything that is read of a layer.
func (e *encoder) Write(p []byte) (int, error) {
	e.sum.TargetSize += int64(len(p))
	if e.o.Progress != nil {
		e.o.Progress(e.sum.TargetSize)
	}
	return e.hash.Write(p)
}

func (e *encoder) check() {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], e.ledger.sum)
	binary.LittleEndian.PutUint64(b[8:], e.ledger.weighted)
	e.s.bytes(colField, b[:])
	e.ledger.reset()
}

// rawBytes and zeroBytes take what is outside of the model; flush writes it.
func (e *encoder) rawBytes(b []byte) error {
	for len(b) > 0 {
		if e.zeros > 0 || len(e.raw) == litPiece {
			if err := e.flush(); err != nil {
				return err
			}
		}
		n := min(len(b), litPiece-len(e.raw))
		e.raw = append(e.raw, b[:n]...)
		b = b[n:]
	}
	return nil
}

func (e *encoder) flush() error {
	if len(e.raw) > 0 {
		if err := e.room(); err != nil {
			return err
		}
		e.s.byte(colOps, opRaw)
		e.s.uint(colNum, uint64(len(e.raw)))
		e.s.bytes(colData, e.raw)
		e.raw = e.raw[:0]
	}
	if e.zeros > 0 {
		if err := e.room(); err != nil {
			return err
		}
		e.s.byte(colOps, opZero)
		e.s.uint(colNum, uint64(e.zeros))
		e.zeros = 0
	}
	return nil
}

// block codes a block where a header may be, and the content that follows it.
func (e *encoder) block(in *bufio.Reader, block []byte) error {
	if allZero(block) {
		e.zeros += blockSize
		return nil
	}
	size, ok := parseHeader(block)
	flag := block[156]
	if !hasContent(flag) {
		size = 0
	}
	meta := kindOf(flag) == kindMeta
	if !ok || meta && (size == 0 || size > maxMeta) {
		return e.rawBytes(block)
	}
	pad := -size & (blockSize - 1)
	large := size > maxWhole
	if !large {
		n, err := e.fill(in, size+pad)
		if err != nil {
			return err
		}
		if n < size+pad {
			if err := e.rawBytes(block); err != nil {
				return err
			}
			return e.rawBytes(e.buf)
		}
	}
	if err := e.flush(); err != nil {
		return err
	}
	if e.ledger.full() {
		if err := e.room(); err != nil {
			return err
		}
		e.s.byte(colOps, opCheck)
		e.check()
	}
	if err := e.room(); err != nil {
		return err
	}
	e.sum.Entries++
	switch {
	case meta:
		return e.meta(in, block, e.buf[:size], e.buf[size:])
	case large:
		return e.largeFile(in, block, size, pad)
	default:
		return e.file(block, e.buf[:size], e.buf[size:])
	}
}

// fill reads n bytes into buf, or all that there are.
func (e *encoder) fill(in io.Reader, n int64) (int64, error) {
	e.buf = e.buf[:0]
	for int64(len(e.buf)) < n {
		// Not more than twice of what came: the size may be a lie.
		step := min(n-int64(len(e.buf)), int64(max(len(e.buf), 1<<20)))
		at := len(e.buf)
		e.buf = append(e.buf, make([]byte, step)...)
		got, err := io.ReadFull(in, e.buf[at:])
		e.buf = e.buf[:at+got]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	return int64(len(e.buf)), nil
}
