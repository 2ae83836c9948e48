package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"path"
	"runtime/debug"
	"slices"

	"github.com/vbatts/tar-split/archive/tar"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
)

// ErrTooMuch is for a layer whose headers need more memory than there is.
var ErrTooMuch = errors.New("the layer has more folders and names than there is memory for")

// recorder writes tar-split's records as that package's own packer does, which
// remembers every name in full: 100 MB for a layer of a million files. Here a
// name costs the 8 bytes of its hash.
type recorder struct {
	out    *json.Encoder
	at     int
	names  nameSet
	kept   int64 // bytes that the extraction keeps until its end
	budget int64
}

func newRecorder(w io.Writer) *recorder {
	r := &recorder{out: json.NewEncoder(w), budget: math.MaxInt64}
	if n := debug.SetMemoryLimit(-1); n < math.MaxInt64 {
		r.budget = n / 2
	}
	return r
}

func (r *recorder) segment(b []byte) error {
	return r.write(&tarsplit.Entry{Type: tarsplit.SegmentType, Payload: b})
}

// file records an entry. A name that was there before is refused: of two files
// only one would be found again.
func (r *recorder) file(hdr *tar.Header, sum []byte) error {
	if !r.names.add(path.Clean(hdr.Name)) {
		return fmt.Errorf("recording %q: %w", hdr.Name, tarsplit.ErrDuplicatePath)
	}
	if hdr.Typeflag == tar.TypeDir {
		// the unpacker keeps the headers of folders, to set their times at the end
		r.kept += headerSize(hdr)
	}
	if r.kept+r.names.size() > r.budget {
		return fmt.Errorf("%w: at entry %d they take %d MB", ErrTooMuch, r.names.n, (r.kept+r.names.size())>>20)
	}
	e := tarsplit.Entry{Type: tarsplit.FileType, Size: hdr.Size, Payload: sum}
	e.SetName(hdr.Name)
	return r.write(&e)
}

func (r *recorder) write(e *tarsplit.Entry) error {
	e.Position = r.at
	r.at++
	return r.out.Encode(e)
}

// headerSize is about what a header takes in memory.
func headerSize(hdr *tar.Header) int64 {
	n := 400 + len(hdr.Name) + len(hdr.Linkname) + len(hdr.Uname) + len(hdr.Gname)
	for k, v := range hdr.PAXRecords {
		n += 100 + len(k) + len(v)
	}
	return int64(n)
}

// records reads what a recorder wrote. It need not look for names that come
// twice, as tar-split's own does.
type records struct{ in *json.Decoder }

func newRecords(r io.Reader) *records { return &records{json.NewDecoder(r)} }

func (r *records) Next() (*tarsplit.Entry, error) {
	var e tarsplit.Entry
	if err := r.in.Decode(&e); err != nil {
		return nil, err
	}
	return &e, nil
}

// nameSet is a set of strings by their hashes. The seed is secret, so that
// nobody can make two that meet; by chance two of a million do once in 10^8
// layers.
type nameSet struct {
	seed  maphash.Seed
	slots []uint64 // 0 is a free one
	n     int
}

func (s *nameSet) size() int64 { return int64(len(s.slots)) * 8 }

// add says whether the name is new.
func (s *nameSet) add(name string) bool {
	if 3*len(s.slots) <= 4*s.n {
		s.grow()
	}
	h := max(maphash.String(s.seed, name), 1)
	slot := s.find(h)
	if s.slots[slot] == h {
		return false
	}
	s.slots[slot] = h
	s.n++
	return true
}

// find gives the slot of a hash, or the free one where it belongs.
func (s *nameSet) find(h uint64) uint64 {
	mask := uint64(len(s.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if s.slots[i] == h || s.slots[i] == 0 {
			return i
		}
	}
}

func (s *nameSet) grow() {
	old := s.slots
	if old == nil {
		s.seed = maphash.MakeSeed()
	}
	s.slots = make([]uint64, max(256, 2*len(old)))
	for _, h := range old {
		if h != 0 {
			s.slots[s.find(h)] = h
		}
	}
}

// idSet collects owners for the layer's record. Of more than a layer can
// sensibly have only the largest stay: they say how large a range has to be.
type idSet map[uint32]struct{}

const maxIDs = 1024

func (s idSet) add(id uint32) {
	s[id] = struct{}{}
	if len(s) > 2*maxIDs {
		for _, id := range s.sorted()[:len(s)-maxIDs] {
			delete(s, id)
		}
	}
}

func (s idSet) sorted() []uint32 {
	ids := make([]uint32, 0, len(s))
	for id := range s {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
