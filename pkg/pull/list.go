package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/manifest"
	istorage "go.podman.io/image/v5/storage"
	imgtransports "go.podman.io/image/v5/transports"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
)

// A list is an index of images for several platforms that is made here. It lies
// in the store the way podman has it: as an image without layers, whose manifest
// is the index, with an item that says where each image of it is.

// Errors about lists that callers tell apart.
var (
	ErrNotList    = errors.New("not a list of images")
	ErrListExists = errors.New("there is a list of that name already")
	ErrNotInList  = errors.New("the list does not have that image")
)

// listSources is the item.
const listSources = "instances.json"

func isList(img *storage.Image) bool { return slices.Contains(img.BigDataNames, listSources) }

// imageList is a list while it is worked on.
type imageList struct {
	layers  storage.Store
	id      string // "" as long as it is not in the store
	names   []string
	index   imgspecv1.Index
	sources map[digest.Digest]string // TRANSPORT:REF of each image
}

func newImageList(layers storage.Store) *imageList {
	return &imageList{layers: layers, sources: map[digest.Digest]string{}, index: imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}}}
}

// findList finds a list by its name or ID. ErrNoImage, ErrNotList.
func findList(layers storage.Store, name string) (*imageList, error) {
	img, _, err := Find(layers, name)
	if err != nil {
		return nil, err
	}
	return readList(layers, img)
}

func readList(layers storage.Store, img *storage.Image) (*imageList, error) {
	if !isList(img) {
		return nil, fmt.Errorf("%w: %s", ErrNotList, shortID(img.ID))
	}
	l := newImageList(layers)
	l.id, l.names = img.ID, img.Names
	for key, to := range map[string]any{storage.ImageDigestBigDataKey: &l.index, listSources: &l.sources} {
		raw, err := layers.ImageBigData(img.ID, key)
		if err == nil {
			err = json.Unmarshal(raw, to)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the list %s: %w", shortID(img.ID), err)
		}
	}
	return l, nil
}

// put adds an image, or brings what is said about it up to date.
func (l *imageList) put(d imgspecv1.Descriptor, source string) {
	l.sources[d.Digest] = source
	for i, have := range l.index.Manifests {
		if have.Digest == d.Digest {
			l.index.Manifests[i] = d
			return
		}
	}
	l.index.Manifests = append(l.index.Manifests, d)
}

// putLocal adds an image of the store.
func (l *imageList) putLocal(img *storage.Image) (digest.Digest, error) {
	raw, err := l.layers.ImageBigData(img.ID, storage.ImageDigestBigDataKey)
	if err != nil {
		return "", fmt.Errorf("reading the manifest of image %s: %w", shortID(img.ID), err)
	}
	c, err := readConfig(l.layers, img.ID)
	if err != nil {
		return "", err
	}
	ref, err := istorage.Transport.NewStoreReference(l.layers, nil, img.ID)
	if err != nil {
		return "", err
	}
	d := imgspecv1.Descriptor{
		MediaType: manifest.GuessMIMEType(raw), Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		Platform: &imgspecv1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion},
	}
	l.put(d, imgtransports.ImageName(ref))
	return d.Digest, nil
}

// local is the ID of an image of the list that is in the store; "" for one
// that is not.
func (l *imageList) local(d digest.Digest) string {
	source := l.sources[d]
	if !strings.HasPrefix(source, "containers-storage:") {
		return ""
	}
	_, id, _ := strings.Cut(source[strings.LastIndex(source, "]")+1:], "@")
	if img, err := l.layers.Image(id); err == nil {
		return img.ID
	}
	return ""
}

// json is the index, as docker's kind where nothing in it is only OCI's.
func (l *imageList) json() ([]byte, error) {
	docker := len(l.index.Annotations) == 0 && !slices.ContainsFunc(l.index.Manifests, func(d imgspecv1.Descriptor) bool {
		return d.MediaType != manifest.DockerV2Schema2MediaType || len(d.Annotations) > 0
	})
	l.index.MediaType = imgspecv1.MediaTypeImageIndex
	if docker && len(l.index.Manifests) > 0 {
		l.index.MediaType = manifest.DockerV2ListMediaType
	}
	if l.index.Manifests == nil {
		l.index.Manifests = []imgspecv1.Descriptor{}
	}
	return json.Marshal(l.index)
}

// save writes the list as a new image, since items cannot be replaced at one
// instant; its names come last, taken from others that have them.
func (l *imageList) save(names ...string) error {
	raw, err := l.json()
	if err != nil {
		return err
	}
	for d := range l.sources {
		if !slices.ContainsFunc(l.index.Manifests, func(m imgspecv1.Descriptor) bool { return m.Digest == d }) {
			delete(l.sources, d)
		}
	}
	sources, err := json.Marshal(l.sources)
	if err != nil {
		return err
	}
	old := l.id
	if err := l.create(sources, raw); err != nil {
		return fmt.Errorf("writing the list: %w", err)
	}
	for _, n := range l.names {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) > 0 {
		if err := l.layers.AddNames(l.id, names); err != nil {
			return fmt.Errorf("naming the list: %w", err)
		}
	}
	if err := syncImages(l.layers); err != nil || old == "" {
		return err
	}
	if _, err := l.layers.DeleteImage(old, true); err != nil && !errors.Is(err, storage.ErrImageUnknown) {
		return fmt.Errorf("removing the list as it was: %w", err)
	}
	return nil
}

// create makes an image of a list, on stable storage, and removes what is left
// of those whose making was cut short.
func (l *imageList) create(sources, index []byte) error {
	w, err := durable.NewWriter(l.layers)
	if err != nil {
		return err
	}
	if err := SweepHalfMade(l.layers, w); err != nil {
		return err
	}
	unlock, err := w.Active(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	img, err := l.layers.CreateImage("", nil, "", "", &storage.ImageOptions{BigData: []storage.ImageBigDataOption{
		{Key: listSources, Data: sources, Digest: digest.FromBytes(sources)},
		{Key: storage.ImageDigestBigDataKey, Data: index, Digest: digest.FromBytes(index)},
	}})
	if err != nil {
		return err
	}
	l.id = img.ID
	return durable.Sync(l.layers.GraphRoot())
}

// find gives the place of an image in the list, by its digest or its name.
func (l *imageList) find(name string) (int, error) {
	d := digest.Digest(name)
	if d.Validate() != nil {
		if _, rest, ok := strings.Cut(name, "@"); ok {
			d = digest.Digest(rest)
		} else if img, _, err := Find(l.layers, name); err == nil {
			d, _ = l.layers.ImageBigDataDigest(img.ID, storage.ImageDigestBigDataKey)
		}
	}
	i := slices.IndexFunc(l.index.Manifests, func(m imgspecv1.Descriptor) bool { return m.Digest == d })
	if i < 0 {
		return -1, fmt.Errorf("%w: %s", ErrNotInList, name)
	}
	return i, nil
}

func platformName(p *imgspecv1.Platform) string {
	if p == nil {
		return "unknown"
	}
	return platformText(p.OS, p.Architecture, p.Variant)
}

// instance is the image of the list for a platform, OS/ARCH[/VARIANT]; "" is
// this machine's. ErrPlatform.
func (l *imageList) instance(platform string) (*storage.Image, error) {
	if platform == "" {
		platform = "linux/" + runtime.GOARCH
	}
	want := strings.Split(platform, "/")
	if len(want) == 1 {
		want = []string{"linux", want[0]}
	}
	var have []string
	for _, d := range l.index.Manifests {
		have = append(have, platformName(d.Platform))
		if d.Platform == nil || d.Platform.OS != want[0] || d.Platform.Architecture != goArch(want[1]) ||
			len(want) > 2 && d.Platform.Variant != "" && d.Platform.Variant != want[2] {
			continue
		}
		if id := l.local(d.Digest); id != "" {
			return l.layers.Image(id)
		}
		return nil, fmt.Errorf("%w: the list's image for %s is not here", ErrPlatform, platform)
	}
	return nil, fmt.Errorf("%w: the list has images for %s, not %s", ErrPlatform, strings.Join(have, ", "), platform)
}

// ForPlatform is the image itself, or of a list that for the platform, OS/ARCH
// [/VARIANT]; "" is this machine's. ErrPlatform.
func ForPlatform(layers storage.Store, img *storage.Image, platform string) (*storage.Image, error) {
	if !isList(img) {
		return img, nil
	}
	l, err := readList(layers, img)
	if err != nil {
		return nil, err
	}
	return l.instance(platform)
}

// Variant is the image itself if it is for the platform, OS/ARCH[/VARIANT]; of
// a list, and of an image that was chosen from an index, that for the platform,
// if it is in the store. "" is what is there. ErrPlatform.
func Variant(layers storage.Store, img *storage.Image, platform string) (*storage.Image, error) {
	if platform == "" || isList(img) {
		return ForPlatform(layers, img, platform)
	}
	sys, err := (&puller{o: Options{Platform: platform}}).systemContext(nil)
	if err != nil {
		return nil, err
	}
	c, err := readConfig(layers, img.ID)
	if err != nil {
		return nil, err
	}
	own := &plan{image: imgspecv1.Image{Platform: imgspecv1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}}}
	if err = own.checkPlatform(sys); err == nil {
		return img, nil
	}
	for _, key := range img.BigDataNames {
		raw, rerr := layers.ImageBigData(img.ID, key)
		if rerr != nil || !manifest.MIMETypeIsMultiImage(manifest.GuessMIMEType(raw)) {
			continue
		}
		list, rerr := manifest.ListFromBlob(raw, manifest.GuessMIMEType(raw))
		if rerr != nil {
			continue
		}
		if d, rerr := list.ChooseInstance(sys); rerr == nil {
			if others, rerr := layers.ImagesByDigest(d); rerr == nil && len(others) > 0 {
				return others[0], nil
			}
		}
	}
	return nil, err
}

// listed are the IDs of images that lists hold.
func listed(layers storage.Store, images []storage.Image) map[string]bool {
	held := map[string]bool{}
	for i := range images {
		if !isList(&images[i]) {
			continue
		}
		if l, err := readList(layers, &images[i]); err == nil { // else `system check` tells
			for d := range maps.Keys(l.sources) {
				held[l.local(d)] = true
			}
		}
	}
	return held
}
