package delta

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// An index finds files of the base: by what is in them, by name, by a similar
// name and by similar content.
type index struct {
	src     FileSource
	files   []indexed
	byPath  map[string]int
	byHash  map[fileHash][]int
	byShape map[string][]int // by the path with versions and hashes taken out
	byTail  map[string][]int // by the last two components of that
	byTrait map[uint64][]int // by sampled content
}

type indexed struct {
	path string
	size int64
}

type fileHash [16]byte

// maxOld is the size up to which a base file serves as the base of a patch.
const maxOld = 256 << 20

func newIndex(ctx context.Context, src FileSource) (*index, error) {
	ix := &index{
		src: src, byPath: map[string]int{}, byHash: map[fileHash][]int{},
		byShape: map[string][]int{}, byTail: map[string][]int{}, byTrait: map[uint64][]int{},
	}
	return ix, ix.walk(ctx, "")
}

func (ix *index) walk(ctx context.Context, dir string) error {
	ents, err := ix.src.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading base folder %q: %w", "/"+dir, err)
	}
	for _, e := range ents {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := path.Join(dir, e.Name)
		switch e.Type {
		case fs.ModeDir:
			err = ix.walk(ctx, p)
		case 0:
			err = ix.add(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (ix *index) add(p string) error {
	f, err := ix.src.Open(p)
	if err != nil {
		return fmt.Errorf("reading base file %q: %w", "/"+p, err)
	}
	defer f.Close()
	size := f.Size()
	if size == 0 {
		return nil
	}
	sum, sk := sha256.New(), sketch{}
	buf := make([]byte, min(size, 256<<10))
	// Large files are not compared as wholes: what they begin with will do.
	large := size > maxWhole
	r := io.NewSectionReader(f, 0, size)
	if large {
		r = io.NewSectionReader(f, 0, fileWindow)
	}
	for {
		n, err := r.Read(buf)
		sum.Write(buf[:n])
		sk.write(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading base file %q: %w", "/"+p, err)
		}
	}
	id := len(ix.files)
	ix.files = append(ix.files, indexed{p, size})
	ix.byPath[p] = id
	if !large {
		h := fileHash(sum.Sum(nil)[:16])
		ix.byHash[h] = append(ix.byHash[h], id)
	}
	sh := shape(p)
	ix.byShape[sh] = append(ix.byShape[sh], id)
	if t := tail(p); len(ix.byTail[t]) < 64 {
		ix.byTail[t] = append(ix.byTail[t], id)
	}
	for _, t := range sk.traits() {
		if l := ix.byTrait[t]; len(l) < 16 {
			ix.byTrait[t] = append(l, id)
		}
	}
	return nil
}

// same finds a base file with exactly this content, the nearest by name.
func (ix *index) same(p string, content []byte) (string, bool) {
	sum := sha256.Sum256(content)
	ids := ix.byHash[fileHash(sum[:16])]
	if len(ids) == 0 {
		return "", false
	}
	if len(ids) > 256 {
		if id, ok := ix.byPath[p]; ok && slices.Contains(ids, id) {
			return p, true
		}
		ids = ids[:256]
	}
	best := slices.MaxFunc(ids, func(a, b int) int {
		return cmp.Or(cmp.Compare(near(p, ix.files[a].path), near(p, ix.files[b].path)), cmp.Compare(b, a))
	})
	return ix.files[best].path, true
}

// near tells how much of two paths is the same, from both ends.
func near(a, b string) int {
	head, tail := affixes(a, b)
	return head + tail
}

func affixes(a, b string) (head, tail int) {
	n := min(len(a), len(b))
	for head < n && a[head] == b[head] {
		head++
	}
	for tail < n-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	return head, tail
}

// similar lists base files that may serve as the base of a patch, the likeliest
// first: that of the path, one of the same path but for versions and hashes, one
// that shares much of its content, and one whose last components are the same.
func (ix *index) similar(p string, content []byte) []int {
	var out []int
	add := func(id int, ok bool) {
		if ok && !slices.Contains(out, id) && ix.files[id].size <= maxOld {
			out = append(out, id)
		}
	}
	id, ok := ix.byPath[p]
	add(id, ok)
	add(ix.nearest(p, ix.byShape[shape(p)]))
	add(ix.resembling(content))
	add(ix.nearest(p, ix.byTail[tail(p)]))
	return out
}

// likely is the best guess for a file that is too large to try; the base file may
// be of any size.
func (ix *index) likely(p string, content []byte) (int, bool) {
	if id, ok := ix.byPath[p]; ok {
		return id, true
	}
	if id, ok := ix.nearest(p, ix.byShape[shape(p)]); ok {
		return id, true
	}
	return ix.resembling(content)
}

// nearest picks the one whose path has most in common with p.
func (ix *index) nearest(p string, ids []int) (int, bool) {
	if len(ids) == 0 {
		return 0, false
	}
	return slices.MaxFunc(ids, func(a, b int) int {
		return cmp.Or(cmp.Compare(near(p, ix.files[a].path), near(p, ix.files[b].path)), cmp.Compare(b, a))
	}), true
}

// resembling finds the file that shares most samples of its content.
func (ix *index) resembling(content []byte) (int, bool) {
	sk := sketch{}
	sk.write(content)
	votes := map[int]int{}
	for _, t := range sk.traits() {
		for _, id := range ix.byTrait[t] {
			votes[id]++
		}
	}
	best, most := -1, 1
	for id, v := range votes {
		if v > most || v == most && best >= 0 && id < best {
			best, most = id, v
		}
	}
	return best, best >= 0
}

// tail is a path's last two components, without versions and hashes.
func tail(p string) string {
	i := strings.LastIndexByte(p, '/')
	if i > 0 {
		i = strings.LastIndexByte(p[:i], '/')
	}
	return shape(p[i+1:])
}

var variable = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`[0-9a-f]*[0-9][0-9a-f]{5,}|[0-9]+([._-][0-9]+)*`)
})

// shape is a path without what changes from version to version.
func shape(p string) string {
	if !strings.ContainsAny(p, "0123456789") {
		return p
	}
	return variable().ReplaceAllString(p, "#")
}

// A sketch samples content: the smallest hashes of all stretches of 64 bytes.
// Files with much in common share some of them.
type sketch struct {
	h    uint64
	n    int
	mins [sketchSize]uint64
	have int
}

const sketchSize = 12

var gear = func() (t [256]uint64) {
	x := uint64(0x9e3779b97f4a7c15)
	for i := range t {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		t[i] = x
	}
	return t
}()

func (s *sketch) write(b []byte) {
	h, worst := s.h, s.worst()
	for _, c := range b {
		h = h<<1 + gear[c]
		if s.n++; s.n < 64 {
			continue
		}
		if v := h * 0x9e3779b97f4a7c15; v < worst {
			s.insert(v)
			worst = s.worst()
		}
	}
	s.h = h
}

func (s *sketch) worst() uint64 {
	if s.have < sketchSize {
		return 1<<64 - 1
	}
	return s.mins[sketchSize-1]
}

func (s *sketch) insert(v uint64) {
	i, found := slices.BinarySearch(s.mins[:s.have], v)
	if found {
		return
	}
	if s.have < sketchSize {
		s.have++
	}
	copy(s.mins[i+1:s.have], s.mins[i:])
	s.mins[i] = v
}

func (s *sketch) traits() []uint64 { return s.mins[:s.have] }
