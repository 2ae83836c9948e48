package main

import (
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"archive/tar"

	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"
)

// verifyTree compares a layer's folder with what its tar holds. The peers give
// the root a mode of their own.
func verifyTree(dir string, want map[string]entry, rootMode bool) error {
	seen := map[string]bool{}
	var bad []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		e, ok := want[name]
		if !ok && name == "." { // not every archiver writes it
			return nil
		}
		if !ok {
			bad = append(bad, name+" should not be there")
			return nil
		}
		seen[name] = true
		if name == "." && !rootMode {
			return nil
		}
		if diff := verifyFile(dir, p, e); diff != "" {
			bad = append(bad, name+" "+diff)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name := range want {
		if !seen[name] {
			bad = append(bad, name+" is missing")
		}
	}
	if len(bad) == 0 {
		return nil
	}
	sort.Strings(bad)
	return fmt.Errorf("%d of %d entries are wrong: %s", len(bad), len(want), strings.Join(bad[:min(3, len(bad))], "; "))
}

// verifyFile says in what a file differs; "" is in nothing.
func verifyFile(root, p string, e entry) string {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return err.Error()
	}
	if e.kind == 'w' {
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			return "is no whiteout"
		}
		return ""
	}
	if e.kind == tar.TypeLink {
		var other unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, e.link), &other); err != nil || other.Ino != st.Ino {
			return "is not a hard link to " + e.link
		}
		return ""
	}
	kinds := map[byte]uint32{tar.TypeReg: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeFifo: unix.S_IFIFO}
	switch {
	case st.Mode&unix.S_IFMT != kinds[e.kind]:
		return fmt.Sprintf("has type and mode %o", st.Mode)
	case e.kind != tar.TypeSymlink && int64(st.Mode&0o7777) != e.mode:
		return fmt.Sprintf("has mode %o instead of %o", st.Mode&0o7777, e.mode)
	case int(st.Uid) != e.uid || int(st.Gid) != e.gid:
		return fmt.Sprintf("belongs to %d:%d", st.Uid, st.Gid)
	case !time.Unix(st.Mtim.Unix()).Equal(e.mtime):
		return fmt.Sprintf("has mtime %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
	case e.kind == tar.TypeReg && st.Size != e.size:
		return fmt.Sprintf("has %d bytes instead of %d", st.Size, e.size)
	}
	switch e.kind {
	case tar.TypeSymlink:
		if to, _ := os.Readlink(p); to != e.link {
			return "leads to " + to
		}
	case tar.TypeReg:
		raw, err := os.ReadFile(p)
		if err != nil {
			return err.Error()
		}
		if sha256.Sum256(raw) != e.sum {
			return "has other content"
		}
	}
	return verifyXattrs(p, e)
}

func verifyXattrs(p string, e entry) string {
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(p, list)
	if err != nil {
		return err.Error()
	}
	found := 0
	for _, name := range strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 }) {
		if strings.HasPrefix(name, "trusted.overlay.") && name != "trusted.overlay.opaque" || strings.HasPrefix(name, "user.containers.") {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return err.Error()
		}
		if want, ok := e.xattrs[name]; !ok || want != string(value[:n]) {
			return fmt.Sprintf("has the attribute %s=%q", name, value[:n])
		}
		found++
	}
	if found != len(e.xattrs) {
		return "lacks extended attributes"
	}
	return ""
}

// verifyTarSplit puts the layer's tar together again, and says what it holds.
func verifyTarSplit(record, dir string, want digest.Digest) (map[string]entry, error) {
	f, err := os.Open(record)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("tar-split record: %w", err)
	}
	v := want.Verifier()
	t := asm.NewOutputTarStream(tarsplit.NewPathFileGetter(dir), tarsplit.NewJSONUnpacker(z))
	defer t.Close()
	all := io.TeeReader(t, v)
	files, err := readEntries(all)
	if err == nil {
		_, err = io.Copy(io.Discard, all)
	}
	if err != nil {
		return nil, fmt.Errorf("putting the tar together: %w", err)
	}
	if !v.Verified() {
		return nil, errors.New("the tar put together from it has another digest")
	}
	return files, nil
}

// readEntries reads a layer's tar up to its end mark.
func readEntries(in io.Reader) (map[string]entry, error) {
	files := map[string]entry{}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return nil, err
		}
		xattrs := map[string]string{}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
				xattrs[name] = v
			}
		}
		addEntry(files, h.Name, entry{kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, size: h.Size,
			sum: [32]byte(sum.Sum(nil)), link: h.Linkname, mtime: h.ModTime, xattrs: xattrs})
	}
}

// addEntry adds what an entry of a tar becomes on the disk.
func addEntry(files map[string]entry, name string, e entry) {
	name = path.Clean(name)
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if base == ".wh..wh..opq" {
		d := files[dir]
		d.xattrs = map[string]string{"trusted.overlay.opaque": "y"}
		files[dir] = d
		return
	}
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		name, e = path.Join(dir, hidden), entry{kind: 'w'}
	}
	files[name] = e
}
