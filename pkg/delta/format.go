package delta

import (
	"errors"
	"fmt"
	"hash/crc32"
)

// The file's first bytes: six of magic, then the version.
const (
	magic   = "bDELTA"
	Version = 1
)

// MediaType is what a registry calls a delta of this format.
const MediaType = "application/vnd.balena.image.delta.v1"

// Limits of the format. A decoder refuses what is beyond them before it
// allocates anything; an encoder stays below.
const (
	maxLayers    = 1024      // layers in one delta
	maxBlockRaw  = 4 << 20   // bytes of all columns of a block, decoded
	maxBlockComp = 5 << 20   // the same, encoded
	maxWindow    = 16 << 20  // how far back the data column reaches
	smallWindow  = 1 << 20   // how far back every other column reaches
	litPiece     = 64 << 10  // literal content is cut into pieces of this size
	maxDiffCopy  = 256 << 10 // bytes of one copy with differences
	maxMeta      = 1 << 20   // content of a PAX or GNU long-name entry
	maxPath      = 4096      // bytes of a path
	maxDepth     = 512       // components of a path
	maxSources   = 1 << 14   // base files, folders and links between two checks
	maxSize      = 1 << 60   // bytes of one entry
	maxInflated  = 8 << 20   // bytes of a base file that is inflated, before and after
	maxGzipHead  = 1024      // bytes before what is compressed
	mtfLen       = 128       // values that a header field remembers
)

// Columns: what is alike is kept together, so that it compresses well. A block
// has them in this order.
const (
	colOps    = iota // operations and type flags
	colNames         // how each name follows from the one before
	colText          // names, link targets, PAX records
	colMask          // which header fields are not as predicted
	colIndex         // what they are instead
	colNum           // numbers: sizes, differences of header fields
	colField         // header fields in full
	colCopy          // lengths of copies within a changed file
	colAdd           // lengths of insertions
	colSeek          // where in the base file to go on
	colGap           // distances between bytes that differ
	colSparse        // those bytes, as differences
	colDense         // differences of every byte of a copy
	colData          // new content
	numColumns
)

// Operations outside of an entry.
const (
	opEnd   = 0x00 // end of the layer, with a check
	opRaw   = 0x01 // bytes outside of the model
	opZero  = 0x02 // zero bytes
	opCheck = 0x03 // check of what was read from the base
	opEntry = 0x10 // a header, plus how its content is made (below)
	opWay   = 0x30 // the same, and more on how (further below) in a byte after the type flag
)

// How the content of an entry is made; added to opEntry.
const (
	madeNone      = 0x0 // there is none
	madeSame      = 0x1 // the base file of that name, whole
	madeBase      = 0x2 // another base file, whole
	madeLiteral   = 0x3 // new content
	madePatch     = 0x4 // the base file of that name, patched, of its size
	madePatchSize = 0x5 // the same, of another size
	madeFrom      = 0x6 // another base file, patched, of its size
	madeFromSize  = 0x7 // the same, of another size
	madePadding   = 0x8 // flag: the padding after it is not all zero
)

// More on how content is made (opWay): the first two only of new content.
const (
	wayDict     = 0x03 // mask
	wayNoDict   = 0x00
	waySamePath = 0x01 // the base file of that name
	wayOther    = 0x02 // another base file
	wayFilter   = 0x0c // mask of the filter's number
	wayGzip     = 0x10 // flag: what is made is then compressed
	wayInflate  = 0x20 // flag: of the base file what is in it, once inflated, is meant
	wayMask     = 0x3f
)

// Operations of a patch: a copy of one kind, then an insertion.
const (
	patchKind   = 0x03 // mask of the kind of copy
	patchExact  = 0x01
	patchSparse = 0x02
	patchDense  = 0x03
	patchAdd    = 0x04 // flag: bytes are inserted after the copy
	patchSeek   = 0x08 // flag: go elsewhere in the base file before the copy
	patchOp     = 0x20
)

// What a Reader and Create answer with; test with errors.Is.
var (
	// ErrBase: a file of the base image is missing, unreadable or not what
	// the delta was made from. The error is a *BaseError where the file is
	// known.
	ErrBase = errors.New("the base image does not fit the delta")
	// ErrFormat: the delta is damaged or was never one.
	ErrFormat = errors.New("damaged delta")
	// ErrVersion: the delta is of a format that this version does not know.
	ErrVersion = errors.New("delta of an unknown version")
	// ErrSize: the layer given to Create is not as long as was said.
	ErrSize = errors.New("a layer of another size")
	// ErrDigest: the layer came out with another digest than its diffID,
	// and no part of the base could be blamed.
	ErrDigest = errors.New("layer differs from its diffID")
)

// BaseError names the file of the base image that does not fit. It is an
// [ErrBase].
type BaseError struct {
	Path string // within the base, without a leading slash
	Err  error
}

func (e *BaseError) Error() string { return fmt.Sprintf("base file %q: %v", "/"+e.Path, e.Err) }

// Unwrap makes the error both an ErrBase and its cause.
func (e *BaseError) Unwrap() []error { return []error{ErrBase, e.Err} }

func formatErr(what string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(what, args...))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }
