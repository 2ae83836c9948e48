package run

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// Create makes a container of a local image, given by its ID, and does not
// start it. What the options leave open comes from the image. store.ErrNameInUse, ErrOptions.
func (e *Engine) Create(ctx context.Context, o *Options, imageID string) (*store.Container, error) {
	c, mark, err := e.create(ctx, o, imageID, newID(), false)
	if err != nil {
		return nil, err
	}
	mark.remove()
	return c, nil
}

// Run makes a container and starts it. Of a container that could not be
// started the record is returned too, unless --rm took it away.
func (e *Engine) Run(ctx context.Context, o *Options, imageID string, so StartOptions) (*store.Container, error) {
	id := newID()
	release, err := e.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	st, err := e.newStage(id)
	if err != nil {
		return nil, err
	}
	defer st.close()
	c, mark, err := e.create(ctx, o, imageID, id, true)
	if err != nil {
		return nil, errors.Join(err, removeIfThere(e.lockPath(id)))
	}
	if !o.Config.AutoRemove {
		mark.remove()
		return c, e.start(ctx, c, so, st, nil)
	}
	defer mark.remove()
	return c, e.start(ctx, c, so, st, mark)
}

// create makes a container, with the mark of its creation, which the caller
// removes; started says that it is started at once, so that the record says so
// from the beginning, which saves a write.
func (e *Engine) create(ctx context.Context, o *Options, imageID, id string, started bool) (*store.Container, *mark, error) {
	c, err := e.newContainer(ctx, o, imageID, id)
	if err != nil {
		return nil, nil, err
	}
	if started {
		e.markStarted(c)
	}
	m, err := e.mark(ctx, c.ID)
	if err != nil {
		return nil, nil, err
	}
	if err := e.makeContainer(ctx, o, c); err != nil {
		m.remove()
		return nil, nil, err
	}
	return c, m, nil
}

// newContainer checks all that can be checked before something is made.
func (e *Engine) newContainer(ctx context.Context, o *Options, imageID, id string) (*store.Container, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Name != "" {
		if err := store.CheckName(o.Name); err != nil {
			return nil, err
		}
	}
	c := &store.Container{ID: id, Name: o.Name, Created: time.Now().UTC(), ImageID: imageID, Image: o.Image, Config: o.Config}
	c.State.Status = store.StatusCreated
	c.Config.Cmd = o.Args
	img, err := e.imageConfig(imageID)
	if err != nil {
		return nil, err
	}
	applyImageDefaults(&c.Config, &img.Config)
	if len(c.Config.Entrypoint)+len(c.Config.Cmd) == 0 {
		return nil, fmt.Errorf("%w: no command given, and image %s has none", ErrOptions, o.Image)
	}
	return c, e.checkNameFree(ctx, c.Name)
}

func (e *Engine) makeContainer(ctx context.Context, o *Options, c *store.Container) error {
	if err := e.createLayer(c); err != nil {
		return fmt.Errorf("creating a container from %s: %w", o.Image, err)
	}
	if err := e.record(ctx, c); err != nil {
		return errors.Join(err, e.removeLayer(c.ID))
	}
	if o.CIDFile != "" {
		if err := writeCIDFile(o.CIDFile, c.ID); err != nil {
			return errors.Join(err, e.remove(context.WithoutCancel(ctx), c, true))
		}
	}
	return nil
}

// imageConfig reads an image's configuration.
func (e *Engine) imageConfig(id string) (*imgspec.Image, error) {
	layers, err := e.Store.Layers()
	if err != nil {
		return nil, err
	}
	raw, err := layers.ImageBigData(id, "sha256:"+id)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", short(id), err)
	}
	img := new(imgspec.Image)
	if err := json.Unmarshal(raw, img); err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", short(id), err)
	}
	return img, nil
}

// record stores a new container with its volumes, under a made-up name where it
// has none.
func (e *Engine) record(ctx context.Context, c *store.Container) error {
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		if err := recordVolumes(tx, c); err != nil {
			return err
		}
		if c.Name != "" {
			return tx.PutContainer(c)
		}
		for try := 0; ; try++ {
			c.Name = randomName(try)
			err := tx.PutContainer(c)
			if !errors.Is(err, store.ErrNameInUse) {
				return err
			}
		}
	})
}

// checkNameFree spares the work of a creation that would fail at its end.
func (e *Engine) checkNameFree(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	return e.Store.View(ctx, func(tx *store.Tx) error {
		var owner string
		err := tx.Get(store.BucketNames, name, &owner)
		if errors.Is(err, store.ErrNoKey) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%w: %q belongs to container %s", store.ErrNameInUse, name, owner)
		}
		return err
	})
}

// createLayer makes the writable layer. That of a --rm container is volatile:
// it is not worth a sync, since a reboot takes it anyway.
func (e *Engine) createLayer(c *store.Container) error {
	layers, err := e.Store.Layers()
	if err != nil {
		return err
	}
	_, ids, err := idMappings(&c.Config, e.Rootless)
	if err != nil {
		return err
	}
	_, err = layers.CreateContainer(c.ID, nil, c.ImageID, c.ID, "", &storage.ContainerOptions{
		IDMappingOptions: ids, Volatile: c.Config.AutoRemove,
	})
	if err != nil && ids.AutoUserNs && !e.Rootless {
		return fmt.Errorf("%w (--userns auto takes them from the ranges of user %q in /etc/subuid and /etc/subgid)", err, storage.RootAutoUserNsUser)
	}
	if err != nil || c.Config.AutoRemove {
		return err
	}
	if err := durable.SyncContainer(layers, c.ID); err != nil {
		return errors.Join(err, e.removeLayer(c.ID))
	}
	return nil
}

func (e *Engine) removeLayer(id string) error {
	layers, err := e.Store.Layers()
	if err != nil {
		return err
	}
	err = layers.DeleteContainer(id)
	if errors.Is(err, storage.ErrContainerUnknown) || errors.Is(err, storage.ErrNotAContainer) {
		// Creation makes the layer first: it may be all that there is.
		err = layers.DeleteLayer(id)
	}
	if err != nil && !errors.Is(err, storage.ErrLayerUnknown) && !errors.Is(err, storage.ErrNotALayer) {
		return fmt.Errorf("removing the layer of container %s: %w", short(id), err)
	}
	return nil
}

// mark is a file on tmpfs, locked as long as its maker lives, so that Sweep
// knows what nobody will finish. That of a creation says that a layer is about
// to exist that no record names yet, and, with --rm, a record that no monitor
// looks after yet; ID.rm, that a record goes before its folders.
type mark struct {
	path string
	f    *os.File
}

func (m *mark) remove() {
	_ = os.Remove(m.path)
	m.f.Close()
}

func (e *Engine) mark(ctx context.Context, name string) (*mark, error) {
	dir := e.creatingDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, f, unix.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		// A Sweep that came before the lock has taken the file for a dead maker's.
		if sameFile(f, path) {
			return &mark{path, f}, nil
		}
		f.Close()
	}
}

func (e *Engine) creatingDir() string {
	return filepath.Join(filepath.Dir(e.Store.BundleDir("x")), ".creating")
}

// beingCreated tells whether somebody makes a container with this ID now.
func (e *Engine) beingCreated(id string) bool {
	_, err := os.Stat(filepath.Join(e.creatingDir(), id))
	return err == nil
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// writeCIDFile writes the ID without a newline, as docker does, and refuses a
// file that exists.
func writeCIDFile(path, id string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: the container ID file %s exists: another container may run under it, or remove the file", ErrOptions, path)
	} else if err != nil {
		return fmt.Errorf("writing the container ID: %w", err)
	}
	_, err = f.WriteString(id)
	return errors.Join(err, f.Close())
}
