package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// images are what is pulled: app:1 and app:2, which have a layer in common, a
// layer that changed and one that only one of them has, and tiny:1.
type images struct {
	layers map[digest.Digest]map[string]entry // what each layer holds, by diffID
	layout string
}

// entry is a file of a layer as it must be on the disk.
type entry struct {
	kind     byte // of the tar header
	mode     int64
	uid, gid int
	size     int64
	sum      [32]byte
	link     string
	mtime    time.Time
	xattrs   map[string]string
}

var epoch = time.Unix(1_700_000_000, 0)

const xattrPrefix = "SCHILY.xattr."

// builder writes a layer's tar and remembers what is in it.
type builder struct {
	raw   bytes.Buffer
	tw    *tar.Writer
	files map[string]entry
	rnd   *rand.Rand
	err   error
}

func newBuilder(seed uint64) *builder {
	b := &builder{files: map[string]entry{}, rnd: rand.New(rand.NewPCG(seed, 1))}
	b.tw = tar.NewWriter(&b.raw)
	b.dir("./", 0o755)
	return b
}

func (b *builder) add(h tar.Header, content []byte, xattrs map[string]string) {
	if b.err != nil {
		return
	}
	h.Size, h.ModTime, h.Format = int64(len(content)), epoch.Add(time.Duration(len(b.files))*time.Second), tar.FormatPAX
	if h.Typeflag == tar.TypeLink { // as archivers do: unpackers may set it once more
		h.ModTime = b.files[path.Clean(h.Linkname)].mtime
	}
	for k, v := range xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+k] = v
	}
	if b.err = b.tw.WriteHeader(&h); b.err != nil {
		return
	}
	if _, b.err = b.tw.Write(content); b.err != nil {
		return
	}
	addEntry(b.files, h.Name, entry{kind: h.Typeflag, mode: h.Mode, uid: h.Uid, gid: h.Gid, size: h.Size, sum: sha256.Sum256(content),
		link: h.Linkname, mtime: h.ModTime, xattrs: xattrs})
}

func (b *builder) dir(name string, mode int64) {
	b.add(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil, nil)
}

func (b *builder) file(name string, mode int64, content []byte) {
	b.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content, nil)
}

func (b *builder) noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(b.rnd.Uint32() >> 9)
		if i%64 < 40 { // half of it compresses
			p[i] = 'x'
		}
	}
	return p
}

// base is the layer that the images share: something to run, and many files.
func base() (*builder, error) {
	b := newBuilder(1)
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "srv", "gone", "hidden"} {
		b.dir("./"+d, 0o755)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	b.file("./bin/busybox", 0o755, busybox)
	for _, n := range []string{"sh", "sleep", "true", "cat"} {
		b.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "./bin/" + n, Linkname: "busybox", Mode: 0o777}, nil, nil)
	}
	b.file("./etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n"))
	for d := range 12 {
		dir := fmt.Sprintf("./srv/d%02d", d)
		b.dir(dir, 0o755)
		for f := range 22 {
			b.file(fmt.Sprintf("%s/f%02d", dir, f), 0o644, b.noise(b.rnd.IntN(40<<10)))
		}
	}
	b.file("./gone/file", 0o600, b.noise(5000))
	b.file("./hidden/file", 0o600, b.noise(5000))
	return b, nil
}

// app is the layer above, with every kind of entry, in one of two versions.
func app(version int) *builder {
	b := newBuilder(2)
	b.dir("./opt", 0o750)
	b.dir("./opt/sticky", 0o1777)
	b.dir("./opt/setgid", 0o2775)
	for f := range 60 {
		p := b.noise(b.rnd.IntN(30 << 10))
		if version == 2 && f%10 == 0 {
			p = append([]byte("version 2"), p...)
		}
		b.file(fmt.Sprintf("./opt/f%02d", f), 0o640, p)
	}
	big := b.noise(3 << 20)
	if version == 2 {
		copy(big[1<<20:], b.noise(100<<10))
	}
	b.file("./opt/big", 0o644, big)
	b.file("./opt/setuid", 0o4755, b.noise(9000))
	b.file("./opt/empty", 0o644, nil)
	b.file("./opt/"+strings.Repeat("long", 60), 0o644, []byte("a long name\n"))
	deep := "./opt" + strings.Repeat("/deep-folder", 14)
	for i := len("./opt"); i < len(deep); i += len("/deep-folder") {
		b.dir(deep[:i+len("/deep-folder")], 0o755)
	}
	b.file(deep+"/file", 0o644, []byte("far down\n"))
	b.add(tar.Header{Typeflag: tar.TypeLink, Name: "./opt/hard", Linkname: "./opt/setuid", Mode: 0o4755}, nil, nil)
	b.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "./opt/dangling", Linkname: "/nowhere/" + strings.Repeat("at-all/", 20), Mode: 0o777}, nil, nil)
	b.add(tar.Header{Typeflag: tar.TypeFifo, Name: "./opt/fifo", Mode: 0o620}, nil, nil)
	b.add(tar.Header{Typeflag: tar.TypeReg, Name: "./opt/owned", Mode: 0o600, Uid: 1000, Gid: 1001}, b.noise(100), nil)
	b.add(tar.Header{Typeflag: tar.TypeReg, Name: "./opt/attributes", Mode: 0o755}, b.noise(100), map[string]string{
		"user.crash":          "a value\x00with anything",
		"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	})
	b.file("./.wh.gone", 0, nil)
	b.dir("./hidden", 0o700)
	b.file("./hidden/.wh..wh..opq", 0, nil)
	b.file("./hidden/shown", 0o644, []byte("new\n"))
	return b
}

func last(version int) *builder {
	b := newBuilder(uint64(10 + version))
	b.dir("./etc", 0o755)
	b.file("./etc/version", 0o644, fmt.Appendf(nil, "%d\n", version))
	b.file("./etc/noise", 0o644, b.noise(200<<10))
	return b
}

// makeImages builds the images and pushes them to the registry.
func makeImages(w *world) (*images, error) {
	im := &images{layers: map[digest.Digest]map[string]entry{}, layout: filepath.Join(w.dir, "layout")}
	shared, err := base()
	if err != nil {
		return nil, err
	}
	type layer struct{ Tar string }
	type manifest struct {
		Config map[string]any
		Layers []layer
	}
	type tag struct {
		Tag       string
		Manifests []manifest
	}
	var spec []tag
	made := map[*builder]string{}
	for _, t := range []struct {
		tag    string
		layers []*builder
	}{{"1", []*builder{shared, app(1), last(1)}}, {"2", []*builder{shared, app(2)}}, {"tiny", []*builder{last(3)}}} {
		m := manifest{Config: map[string]any{"Cmd": []string{"/bin/true"}}}
		for _, b := range t.layers {
			if made[b] == "" {
				if b.err = b.tw.Close(); b.err != nil {
					return nil, b.err
				}
				made[b] = filepath.Join(w.dir, fmt.Sprintf("layer%d.tar", len(made)))
				if err := os.WriteFile(made[b], b.raw.Bytes(), 0o644); err != nil {
					return nil, err
				}
				im.layers[digest.FromBytes(b.raw.Bytes())] = b.files
			}
			m.Layers = append(m.Layers, layer{made[b]})
		}
		spec = append(spec, tag{t.tag, []manifest{m}})
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable() // mkimage is built next to it
	if err != nil {
		return nil, err
	}
	if err := pipe(bytes.NewReader(raw), filepath.Join(filepath.Dir(self), "mkimage"), im.layout); err != nil {
		return nil, err
	}
	return im, errors.Join(
		command(registryTool, "push", w.registry, im.layout, "app", "1", "2", "tiny"),
		command(registryTool, "push", w.registry, im.layout, "delta", "1", "2"),
		command("skopeo", "copy", "--quiet", "oci:"+im.layout+":1", "docker-archive:"+w.archive()+":"+w.registry+"/app:1"))
}

// archive is an image as `docker save` writes it.
func (w *world) archive() string { return filepath.Join(w.dir, "app.tar") }

// publishDelta has the engine make the delta from delta:1 to delta:2, in the
// registry and as an archive.
func (w *world) publishDelta(balena string) error {
	name := "docker://" + w.registry + "/delta:"
	for _, to := range [][]string{{"--push"}, {"-o", w.deltaArchive()}} {
		args := []string{"--root", filepath.Join(w.dir, "maker"), "--runroot", w.runRoot(), "image", "delta", "-q"}
		if err := command(balena, append(append(args, to...), name+"1", name+"2")...); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) deltaArchive() string { return filepath.Join(w.dir, "delta.tar") }

func pipe(in io.Reader, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
