package pull

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
)

const (
	idA = "aaaa111111111111111111111111111111111111111111111111111111111111"
	idB = "aaab222222222222222222222222222222222222222222222222222222222222"
	idC = "cccc333333333333333333333333333333333333333333333333333333333333"
	dig = "sha256:dddd444444444444444444444444444444444444444444444444444444444444"
)

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{
		"debian":                        "docker.io/library/debian:latest",
		"debian:12":                     "docker.io/library/debian:12",
		"balena/open":                   "docker.io/balena/open:latest",
		"docker.io/debian":              "docker.io/library/debian:latest",
		"index.docker.io/debian":        "docker.io/library/debian:latest",
		"localhost/x":                   "localhost/x:latest",
		"localhost:5000/x":              "localhost:5000/x:latest",
		"127.0.0.1:5000/a/b:c":          "127.0.0.1:5000/a/b:c",
		"quay.io/a/b@" + dig:            "quay.io/a/b@" + dig,
		"quay.io/a/b:tag@" + dig:        "quay.io/a/b@" + dig,
		"registry.example.com/x_y-z.w2": "registry.example.com/x_y-z.w2:latest",
	} {
		got, err := ParseName(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseName(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "Debian", "a b", "debian:", ":latest", "-x/y", "x@sha256:12", idA, "docker.io/" + "ü"} {
		if got, err := ParseName(in); !errors.Is(err, ErrBadReference) {
			t.Errorf("ParseName(%q) = %v, %v; want ErrBadReference", in, got, err)
		}
	}
}

func TestFind(t *testing.T) {
	images := []storage.Image{
		{ID: idA, Names: []string{"docker.io/library/debian:latest", "docker.io/library/debian:12"}, Digests: []digest.Digest{dig}},
		{ID: idB, Names: []string{"localhost/debian:latest", "localhost/mine:latest", "127.0.0.1:5000/x:1"}},
		{ID: idC, Names: []string{"docker.io/library/aaaa:latest", "quay.io/q@" + dig}},
	}
	for in, want := range map[string]struct {
		id, name string
		err      error
	}{
		"debian":               {idA, "docker.io/library/debian:latest", nil}, // docker's reading first
		"debian:12":            {idA, "docker.io/library/debian:12", nil},
		"localhost/debian":     {idB, "localhost/debian:latest", nil},
		"mine":                 {idB, "localhost/mine:latest", nil},
		"docker.io/mine":       {"", "", ErrNoImage}, // not short
		"127.0.0.1:5000/x:1":   {idB, "127.0.0.1:5000/x:1", nil},
		"127.0.0.1:5000/x":     {"", "", ErrNoImage},
		"debian@" + dig:        {idA, "docker.io/library/debian@" + dig, nil},
		"quay.io/q@" + dig:     {idC, "quay.io/q@" + dig, nil},
		"quay.io/other@" + dig: {"", "", ErrNoImage},
		idA:                    {idA, "", nil},
		"sha256:" + idA:        {idA, "", nil},
		"aaaa":                 {idC, "docker.io/library/aaaa:latest", nil}, // a name beats an ID's beginning
		"sha256:aaaa":          {idA, "", nil},
		"aaaa1":                {idA, "", nil},
		"aaa":                  {"", "", ErrAmbiguousImage},
		"c":                    {idC, "", nil},
		"e":                    {"", "", ErrNoImage},
		"nothing":              {"", "", ErrNoImage},
		"Bad Name":             {"", "", ErrBadReference},
	} {
		img, name, err := find(images, in)
		id := ""
		if img != nil {
			id = img.ID
		}
		if id != want.id || name != want.name || !errors.Is(err, want.err) {
			t.Errorf("find(%q) = %.4s %q %v; want %.4s %q %v", in, id, name, err, want.id, want.name, want.err)
		}
	}
}

func TestParseReference(t *testing.T) {
	for in, want := range map[string]string{
		"debian":                     "docker://debian:latest",
		"docker://quay.io/a/b:1":     "docker://quay.io/a/b:1",
		"oci:/tmp/x:tag":             "oci:/tmp/x:tag",
		"oci-archive:/tmp/x.tar":     "oci-archive:/tmp/x.tar:",
		"docker-archive:/tmp/x.tar":  "docker-archive:/tmp/x.tar",
		"dir:/tmp":                   "dir:/tmp",
		"localhost:5000/dir:x":       "docker://localhost:5000/dir:x",
		"docker-archive-like/x:oci1": "docker://docker-archive-like/x:oci1",
	} {
		r, _, err := ParseReference(in, nil)
		if err != nil {
			t.Errorf("ParseReference(%q): %v", in, err)
			continue
		}
		if got := r.Transport().Name() + ":" + r.StringWithinTransport(); got != want && got != "docker://"+want[len("docker:"):] {
			t.Errorf("ParseReference(%q) = %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"docker://", "oci-archive:", "containers-storage:x", "sif:x y"} {
		if _, _, err := ParseReference(in, nil); !errors.Is(err, ErrBadReference) {
			t.Errorf("ParseReference(%q) = %v, want ErrBadReference", in, err)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for in, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1": true, "127.1.2.3:80": true, "[::1]:5000": true,
		"docker.io": false, "10.0.0.1:5000": false, "localhost.example.com": false, "[fe80::1]:5000": false,
	} {
		if got := isLoopback(in); got != want {
			t.Errorf("isLoopback(%q) = %v", in, got)
		}
	}
}
