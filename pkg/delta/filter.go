package delta

import "encoding/binary"

// A filter turns the relative targets of calls and jumps in machine code into
// absolute ones, so that two calls of one function look alike; xz calls it BCJ.
// It works on chunks of a file by themselves, so that any part of a base file
// can be filtered without what is before it.
type filter byte

const (
	filterNone  filter = 0
	filterX86   filter = 1
	filterARM64 filter = 2
	numFilters         = 3

	filterChunk = 16 << 10
)

// encode filters part of a file that begins at a multiple of filterChunk and ends
// at one, or at the file's end.
func (f filter) encode(b []byte, at uint64) { f.chunks(b, at, 1) }

// decode undoes it.
func (f filter) decode(b []byte, at uint64) { f.chunks(b, at, ^uint32(0)) }

func (f filter) chunks(b []byte, at uint64, sign uint32) {
	for f != filterNone && len(b) > 0 {
		n := min(len(b), filterChunk)
		f.apply(b[:n], uint32(at), sign)
		b, at = b[n:], at+uint64(n)
	}
}

// apply adds the position to each target, sign times.
func (f filter) apply(b []byte, at, sign uint32) {
	switch f {
	case filterX86:
		applyX86(b, at, sign)
	case filterARM64:
		applyARM64(b, at, sign)
	}
}

// applyX86 changes what follows 0xe8 (call), 0xe9 (jump) and 0x0f 0x80 to 0x8f
// (conditional jumps) and looks like a distance of less than 16 MB.
func applyX86(b []byte, at, sign uint32) {
	for i := 0; i+5 <= len(b); i++ {
		if b[i]&0xfe != 0xe8 && (i == 0 || b[i-1] != 0x0f || b[i]&0xf0 != 0x80) {
			continue
		}
		v := binary.LittleEndian.Uint32(b[i+1:])
		if t := v >> 24; t == 0 || t == 0xff {
			v += sign * (at + uint32(i) + 5)
			// the sign is bit 24, whatever is above it
			v = uint32(int32(v<<7) >> 7)
			binary.LittleEndian.PutUint32(b[i+1:], v)
		}
		i += 4 // also if nothing changed: these bytes decided on it
	}
}

// applyARM64 changes bl, and adrp where it reaches at most 512 MB.
func applyARM64(b []byte, at, sign uint32) {
	for i := 0; i+4 <= len(b); i += 4 {
		v, pc := binary.LittleEndian.Uint32(b[i:]), at+uint32(i)
		switch {
		case v>>26 == 0x25:
			v = 0x94000000 | (v+sign*(pc>>2))&0x03ffffff
		case v&0x9f000000 == 0x90000000:
			// 21 bits: two at 29, nineteen at 5
			d := v>>29&3 | v>>3&0x1ffffc
			if (d+0x020000)&0x1c0000 != 0 {
				continue
			}
			d += sign * (pc >> 12)
			v = v&0x9000001f | d&3<<29 | d&0x03fffc<<3 | -(d&0x020000)&0xe00000
		default:
			continue
		}
		binary.LittleEndian.PutUint32(b[i:], v)
	}
}
