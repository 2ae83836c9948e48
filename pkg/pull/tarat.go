package pull

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	tarstorage "github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/storage"
	drivers "go.podman.io/storage/drivers"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/durable"
)

const (
	tarPageSize  = 64 << 10 // bytes of a layer's record that are kept together
	tarPagesOpen = 16       // pages that are kept unpacked
	tarFilesOpen = 16       // files that are kept open
)

// imageTar is the tars of an image's layers one after the other, the lowest
// first, which can be read at any place: librsync deltas are made against that.
// No tar is there: headers come from each layer's tar-split record, which is
// kept compressed, some 50 to 100 bytes a file, and content from the files as
// they lie in the layer's own folder. Several may read at the same time.
//
// Nothing that is read has a checksum: who uses it knows a digest of what should
// come out, and asks check when it does not.
type imageTar struct {
	store  storage.Store
	layers []*layerAt
	size   int64

	mu    sync.Mutex
	dec   *zstd.Decoder
	pages recent[openPage]
	spare []byte // for the next page
	files recent[openFile]
}

// layerAt is one layer's tar.
type layerAt struct {
	id     string
	diffID digest.Digest
	start  int64 // in the image's tar
	files  *delta.DirSource
	pages  []tarPage
}

// tarPage is a part of a layer's record: pieces, of which each is a varint of
// its size, shifted by one, and the bytes themselves, or where that is odd a
// varint of the length of a file's name and the name.
type tarPage struct {
	start  int64 // in the image's tar
	packed []byte
}

// recent are things that are kept at hand, the last used first.
type recent[T any] []*T

// use finds one and puts it first; nil if none fits.
func (r *recent[T]) use(fits func(*T) bool) *T {
	i := slices.IndexFunc(*r, fits)
	if i < 0 {
		return nil
	}
	v := (*r)[i]
	copy((*r)[1:i+1], (*r)[:i])
	(*r)[0] = v
	return v
}

// add puts one first, and takes out and returns the one that was not used for
// the longest time if there are as many as there may be.
func (r *recent[T]) add(v *T, most int) (last *T) {
	if n := len(*r); n >= most {
		last, *r = (*r)[n-1], (*r)[:n-1]
	}
	*r = slices.Insert(*r, 0, v)
	return last
}

type openPage struct {
	layer *layerAt
	index int
	raw   []byte
}

type openFile struct {
	layer *layerAt
	name  string
	delta.File
}

// openImageTar reads the records of an image's layers. The caller closes it, and
// sees to it that the image is not removed meanwhile.
func openImageTar(ctx context.Context, store storage.Store, img *storage.Image) (*imageTar, error) {
	t := &imageTar{store: store}
	var err error
	t.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	for id := img.TopLayer; id != "" && err == nil; {
		var l *storage.Layer
		if l, err = store.Layer(id); err == nil {
			t.layers = append(t.layers, &layerAt{id: id, diffID: l.UncompressedDigest})
			id = l.Parent
		}
	}
	slices.Reverse(t.layers)
	for _, l := range t.layers {
		if err == nil {
			err = t.open(ctx, l)
		}
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *imageTar) open(ctx context.Context, l *layerAt) error {
	l.start = t.size
	dir, err := layerDir(t.store, l.id)
	if err == nil {
		l.files, err = delta.OpenDir(dir)
	}
	if err == nil {
		err = t.readRecord(ctx, l)
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.id, err)
	}
	return nil
}

// layerDir is the folder that has a layer's own files.
func layerDir(store storage.Store, id string) (string, error) {
	driver, err := store.GraphDriver()
	if err != nil {
		return "", err
	}
	info, err := driver.Metadata(id)
	if err != nil {
		return "", err
	}
	if dir := info["UpperDir"]; dir != "" {
		return dir, nil
	}
	if driver.String() != "vfs" {
		return "", fmt.Errorf("storage driver %s keeps no folder for each layer", driver)
	}
	return driver.Get(id, drivers.MountOpts{}) // only says where it is
}

// readRecord reads a layer's tar-split record into pages.
func (t *imageTar) readRecord(ctx context.Context, l *layerAt) error {
	record, err := durable.OpenRecord(t.store, l.id)
	if err != nil {
		return fmt.Errorf("there is no record of its tar: %w", err)
	}
	defer record.Close()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(tarPageSize))
	if err != nil {
		return err
	}
	defer enc.Close()
	w := &tarPager{t: t, l: l, enc: enc}
	in := json.NewDecoder(record)
	for ctx.Err() == nil {
		var e tarstorage.Entry
		if err := in.Decode(&e); errors.Is(err, io.EOF) {
			w.flush()
			return nil
		} else if err != nil {
			return fmt.Errorf("the record of its tar: %w", err)
		}
		if err := w.add(&e); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// tarPager makes a layer's pages.
type tarPager struct {
	t   *imageTar
	l   *layerAt
	enc *zstd.Encoder
	raw []byte
	at  int64 // where raw starts
}

func (w *tarPager) add(e *tarstorage.Entry) error {
	if len(w.raw) == 0 {
		w.at = w.t.size
	}
	switch {
	case e.Type == tarstorage.FileType && e.Size < 0:
		return fmt.Errorf("the record of its tar: file of %d bytes", e.Size)
	case e.Type == tarstorage.FileType && e.Size > 0:
		name := path.Clean("/" + e.GetName())[1:]
		w.raw = binary.AppendUvarint(w.raw, uint64(e.Size)<<1|1)
		w.raw = binary.AppendUvarint(w.raw, uint64(len(name)))
		w.raw = append(w.raw, name...)
		w.t.size += e.Size
	case e.Type == tarstorage.SegmentType:
		for part := range slices.Chunk(e.Payload, tarPageSize) {
			w.raw = binary.AppendUvarint(w.raw, uint64(len(part))<<1)
			w.raw = append(w.raw, part...)
			w.t.size += int64(len(part))
			if len(w.raw) >= tarPageSize {
				w.flush()
				w.at = w.t.size
			}
		}
	}
	if len(w.raw) >= tarPageSize {
		w.flush()
	}
	return nil
}

func (w *tarPager) flush() {
	if len(w.raw) > 0 {
		w.l.pages = append(w.l.pages, tarPage{w.at, w.enc.EncodeAll(w.raw, nil)})
		w.raw = w.raw[:0]
	}
}

// Close frees what is open.
func (t *imageTar) Close() error {
	var errs []error
	for _, f := range t.files {
		errs = append(errs, f.Close())
	}
	for _, l := range t.layers {
		if l.files != nil {
			errs = append(errs, l.files.Close())
		}
	}
	t.dec.Close()
	return errors.Join(errs...)
}

// ReadAt implements io.ReaderAt. Its errors name layer and file.
func (t *imageTar) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, errors.New("negative offset")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	done := 0
	for done < len(p) && at+int64(done) < t.size {
		n, err := t.readSome(p[done:], at+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readSome reads what one page gives.
func (t *imageTar) readSome(p []byte, at int64) (int, error) {
	i, found := slices.BinarySearchFunc(t.layers, at, func(l *layerAt, at int64) int { return cmp.Compare(l.start, at) })
	if found { // of layers without bytes the last one
		for i+1 < len(t.layers) && t.layers[i+1].start == at {
			i++
		}
	} else {
		i--
	}
	l := t.layers[i]
	k, found := slices.BinarySearchFunc(l.pages, at, func(g tarPage, at int64) int { return cmp.Compare(g.start, at) })
	if !found {
		k--
	}
	raw, err := t.page(l, k)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.id, err)
	}
	done := 0
	for start := l.pages[k].start; len(raw) > 0 && done < len(p); {
		head, n := binary.Uvarint(raw)
		size := int64(head >> 1)
		raw = raw[n:]
		var piece []byte
		if head&1 == 0 {
			piece, raw = raw[:size], raw[size:]
		} else {
			length, n := binary.Uvarint(raw)
			piece, raw = raw[n:n+int(length)], raw[n+int(length):]
		}
		from := at + int64(done) - start
		start += size
		if from >= size {
			continue
		}
		want := p[done:min(int64(len(p)), int64(done)+size-from)]
		if head&1 == 0 {
			copy(want, piece[from:])
		} else if n, err := t.readFile(l, string(piece), want, from); err != nil {
			return done + n, fmt.Errorf("layer %s: %w", l.id, err)
		}
		done += len(want)
	}
	return done, nil
}

// page unpacks a page.
func (t *imageTar) page(l *layerAt, index int) ([]byte, error) {
	if g := t.pages.use(func(g *openPage) bool { return g.layer == l && g.index == index }); g != nil {
		return g.raw, nil
	}
	raw, err := t.dec.DecodeAll(l.pages[index].packed, t.spare)
	if err != nil {
		return nil, err
	}
	if last := t.pages.add(&openPage{l, index, raw}, tarPagesOpen); last != nil {
		t.spare = last.raw[:0]
	} else {
		t.spare = nil
	}
	return raw, nil
}

// readFile fills p from one file of a layer.
func (t *imageTar) readFile(l *layerAt, name string, p []byte, at int64) (int, error) {
	f := t.files.use(func(f *openFile) bool { return f.layer == l && f.name == name })
	if f == nil {
		file, err := l.files.Open(name)
		if err != nil {
			return 0, &delta.BaseError{Path: name, Err: err}
		}
		f = &openFile{l, name, file}
		if last := t.files.add(f, tarFilesOpen); last != nil {
			last.Close()
		}
	}
	n, err := f.ReadAt(p, at)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("is shorter than it was")
	}
	return n, &delta.BaseError{Path: name, Err: err}
}

// check reads every layer in full and says what of it is damaged, if anything.
func (t *imageTar) check(ctx context.Context) error {
	for _, l := range t.layers {
		layer, err := t.store.Layer(l.id)
		if err != nil {
			return err
		}
		tar, err := openTar(t.store, layer)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, &untilDone{ctx, tar})
		if err := errors.Join(err, tar.Close()); err != nil {
			return fmt.Errorf("layer %s: %w", l.id, err)
		}
	}
	return nil
}

// untilDone is a reader that ends with its context.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.Reader.Read(p)
}
