package delta

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func sampleArtifact() Artifact {
	d := func(s string) digest.Digest { return digest.FromString(s) }
	return Artifact{
		Subject: imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageManifest, Digest: d("manifest"), Size: 700},
		Base:    d("base"), BaseManifest: d("base manifest"), Target: d("target"),
		Layers:  []digest.Digest{d("one"), d("two"), d("one")},
		Blob:    imgspecv1.Descriptor{MediaType: MediaType, Digest: d("blob"), Size: 12345},
		Version: Version,
	}
}

// TestArtifactRoundTrip: what was written is what is read, from the manifest
// and from a list of referrers.
func TestArtifactRoundTrip(t *testing.T) {
	dated, bare := sampleArtifact(), sampleArtifact()
	dated.Created = time.Unix(1700000000, 0).UTC()
	bare.BaseManifest = ""
	for _, a := range []Artifact{sampleArtifact(), dated, bare} {
		raw, err := a.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		again, _ := a.Manifest()
		if !bytes.Equal(raw, again) {
			t.Error("the same artifact has two manifests")
		}
		got, err := ParseArtifact(raw)
		if err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, a)
		}
		d := a.Descriptor(raw)
		if d.Digest != digest.FromBytes(raw) || d.Size != int64(len(raw)) {
			t.Errorf("descriptor %+v is not of the manifest", d)
		}
		listed, err := ArtifactOf(d, a.Subject.Digest)
		a.Subject = imgspecv1.Descriptor{Digest: a.Subject.Digest}
		if err != nil || !reflect.DeepEqual(listed, a) {
			t.Errorf("listed %+v, %v\nwant %+v", listed, err, a)
		}
	}
}

// TestArtifactManifest: the manifest is what the OCI specification and
// docs/delta-format.md say.
func TestArtifactManifest(t *testing.T) {
	raw, err := sampleArtifact().Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		SchemaVersion           int
		MediaType, ArtifactType string
		Config, Subject         imgspecv1.Descriptor
		Layers                  []imgspecv1.Descriptor
		Annotations             map[string]string
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	a := sampleArtifact()
	if m.SchemaVersion != 2 || m.MediaType != imgspecv1.MediaTypeImageManifest || m.ArtifactType != MediaType {
		t.Errorf("wrong types in %s", raw)
	}
	if m.Config.MediaType != imgspecv1.MediaTypeEmptyJSON || m.Config.Digest != digest.FromString("{}") || m.Config.Size != 2 {
		t.Errorf("config %+v", m.Config)
	}
	if !reflect.DeepEqual(m.Subject, a.Subject) || !reflect.DeepEqual(m.Layers, []imgspecv1.Descriptor{a.Blob}) {
		t.Errorf("subject %+v, layers %+v", m.Subject, m.Layers)
	}
	want := map[string]string{
		"io.balena.delta.version": "1", "io.balena.delta.base.config": a.Base.String(),
		"io.balena.delta.base.manifest": a.BaseManifest.String(), "io.balena.delta.target.config": a.Target.String(),
		"io.balena.delta.blob": a.Blob.Digest.String(), "io.balena.delta.size": "12345",
		"io.balena.delta.layers": a.Layers[0].String() + "," + a.Layers[1].String() + "," + a.Layers[2].String(),
	}
	if !reflect.DeepEqual(m.Annotations, want) {
		t.Errorf("annotations %v\nwant %v", m.Annotations, want)
	}
}

func TestArtifactRefused(t *testing.T) {
	good, err := sampleArtifact().Manifest()
	if err != nil {
		t.Fatal(err)
	}
	a := sampleArtifact()
	replace := func(old, new string) []byte {
		if !strings.Contains(string(good), old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return []byte(strings.ReplaceAll(string(good), old, new))
	}
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":             {nil, ErrFormat},
		"no JSON":             {[]byte("delta"), ErrFormat},
		"another type":        {replace(`"artifactType":"`+MediaType, `"artifactType":"x`), ErrFormat},
		"newer version":       {replace(AnnotationVersion+`":"1"`, AnnotationVersion+`":"2"`), ErrVersion},
		"version 0":           {replace(AnnotationVersion+`":"1"`, AnnotationVersion+`":"0"`), ErrFormat},
		"no version":          {replace(AnnotationVersion, "x"), ErrFormat},
		"base is no digest":   {replace(AnnotationBase+`":"sha256:`, AnnotationBase+`":"sha256:zz`), ErrFormat},
		"base's manifest":     {replace(AnnotationBaseManifest+`":"sha256:`, AnnotationBaseManifest+`":"../`), ErrFormat},
		"no target":           {replace(AnnotationTarget, "x"), ErrFormat},
		"no layers":           {replace(AnnotationLayers, "x"), ErrFormat},
		"a diffID":            {replace(a.Layers[1].String(), "sha256:1"), ErrFormat},
		"too many layers":     {replace(a.Layers[1].String(), strings.Repeat(",", maxLayers)), ErrFormat},
		"no subject":          {replace(`"subject"`, `"object"`), ErrFormat},
		"negative size":       {replace("12345", "-1"), ErrFormat},
		"no size":             {replace(AnnotationSize, "x"), ErrFormat},
		"size beyond 64 bits": {replace(AnnotationSize+`":"`, AnnotationSize+`":"99999999999999999999`), ErrFormat},
		"other blob":          {replace(AnnotationBlob+`":"`+a.Blob.Digest.String(), AnnotationBlob+`":"`+a.Base.String()), ErrFormat},
		"another size":        {replace(AnnotationSize+`":"12345`, AnnotationSize+`":"12346`), ErrFormat},
		"created":             {replace(AnnotationVersion+`"`, imgspecv1.AnnotationCreated+`":"yesterday","`+AnnotationVersion+`"`), ErrFormat},
		"huge":                {append(bytes.Repeat([]byte(" "), maxArtifact), good...), ErrFormat},
	} {
		if _, err := ParseArtifact(c.raw); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if _, err := ArtifactOf(imgspecv1.Descriptor{ArtifactType: MediaType}, a.Subject.Digest); !errors.Is(err, ErrFormat) {
		t.Errorf("without annotations: %v", err)
	}
	d := a.Descriptor(good)
	if _, err := ArtifactOf(d, "latest"); !errors.Is(err, ErrFormat) {
		t.Errorf("subject that is no digest: %v", err)
	}
	d.ArtifactType = "application/spdx+json"
	if _, err := ArtifactOf(d, a.Subject.Digest); !errors.Is(err, ErrFormat) {
		t.Errorf("another type: %v", err)
	}
	a.Layers = nil
	if raw, err := a.Manifest(); !errors.Is(err, ErrFormat) {
		t.Errorf("wrote %s, %v", raw, err)
	}
}

// FuzzParseArtifact: whatever a registry answers, it is refused or means the
// same when it is written again.
func FuzzParseArtifact(f *testing.F) {
	raw, err := sampleArtifact().Manifest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(strings.Replace(string(raw), `"12345"`, `"-12345"`, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseArtifact(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) {
				t.Fatalf("neither ErrFormat nor ErrVersion: %v", err)
			}
			return
		}
		if a.Blob.Size < 0 || len(a.Layers) > maxLayers || a.Base.Validate() != nil {
			t.Fatalf("accepted %+v", a)
		}
		if a.Subject.MediaType == "" {
			return
		}
		again, err := a.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		b2, err := ParseArtifact(again)
		if err != nil || b2.Base != a.Base || b2.Blob.Digest != a.Blob.Digest || !b2.Created.Equal(a.Created) {
			t.Fatalf("%+v became %+v, %v", a, b2, err)
		}
	})
}
