package durable

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A layer whose parent has lost its short name is whole: the name comes back.
func TestShortNameComesBack(t *testing.T) {
	st, w := testStore(t, "overlay")
	var ids []string
	var digests []digest.Digest
	for _, name := range []string{"below", "above"} {
		content := makeTar(t, &tar.Header{Name: name, Size: 10, Mode: 0o600})
		d := digest.FromBytes(content)
		s, err := w.Stage(t.Context(), bytes.NewReader(content), d)
		if err != nil {
			t.Fatal(err)
		}
		l := Layer{DiffID: d}
		if len(ids) > 0 {
			l.Parent = ids[0]
		}
		l.ID = LayerID(l.Parent, d)
		if err := w.Commit(t.Context(), s, l); err != nil {
			t.Fatal(err)
		}
		ids, digests = append(ids, l.ID), append(digests, d)
	}
	home := filepath.Join(st.GraphRoot(), "overlay")
	text, err := os.ReadFile(filepath.Join(home, ids[0], "link"))
	if err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(home, "l", string(text))
	if err := os.Remove(short); err != nil {
		t.Fatal(err)
	}
	if verified, err := Verify(st, ids[1], digests[1]); err != nil || !verified {
		t.Errorf("without the parent's short name: %v, %v", verified, err)
	}
	if to, err := os.Readlink(short); err != nil || to != filepath.Join("..", ids[0], "diff") {
		t.Errorf("the short name leads to %q, %v", to, err)
	}

	// what no layer calls itself stays away, and is not what is damaged
	if err := errors.Join(os.Remove(short), os.WriteFile(filepath.Join(home, ids[0], "link"), []byte("ANOTHER"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := openLayerFiles(home, ids[1]); err == nil {
		t.Error("opened without the layer below")
	} else if want := "a layer below it is missing: no layer has the short name " + string(text); err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
