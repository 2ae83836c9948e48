package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/store"
)

// RemoveOptions say what Remove may do.
type RemoveOptions struct {
	Force   bool // kill it if it runs
	Volumes bool // remove its anonymous volumes too
}

// Remove removes a container with its layer and logs. ErrRunning.
func (e *Engine) Remove(ctx context.Context, ref string, opts RemoveOptions) error {
	o, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if o.Running() || o.State.Status == store.StatusRestarting {
		if !opts.Force {
			return fmt.Errorf("cannot remove container %s: %w: stop it first, or use --force", ref, ErrRunning)
		}
		if err := e.markStopped(ctx, o); err != nil {
			return err
		}
		if o.Running() {
			if err := e.kill(ctx, o); err != nil {
				return err
			}
		}
	}
	// Its monitor may be about to remove it by itself (--rm).
	if err := monitor.WaitGone(ctx, e.Store.BundleDir(o.ID)); err != nil {
		return err
	}
	release, err := e.lock(ctx, o.ID)
	if err != nil {
		return err
	}
	defer release()
	c, err := e.Find(ctx, o.ID)
	if errors.Is(err, store.ErrNoContainer) {
		return removeIfThere(e.lockPath(o.ID)) // made by the lock taken here
	} else if err != nil {
		return err
	}
	if o, err = e.Observe(c); err != nil {
		return err
	}
	if o.Running() {
		return fmt.Errorf("cannot remove container %s: %w: it was started again meanwhile", ref, ErrRunning)
	}
	return e.cleanAndRemove(ctx, c, opts.Volumes)
}

// Cleanup is what a monitor becomes when its container has ended for good: the
// network goes, and with --rm the container. The monitor's lock, which it still
// holds, keeps others off; the container's own lock is with the command that
// waits for this when a start has failed.
func (e *Engine) Cleanup(ctx context.Context, id string) error {
	c, err := e.Find(ctx, id)
	if err != nil {
		return errors.Join(err, e.clean(ctx, id))
	}
	if c.Config.AutoRemove {
		e.unmountHere(id)
		return e.cleanAndRemove(ctx, c, true)
	}
	return e.clean(ctx, id)
}

// CleanupAttached is Cleanup in the command that was attached to a container
// with --rm, while the container's monitor waits for it. The monitor may be
// killed meanwhile, so the container's own lock keeps others off. Who has it
// may wait for the monitor: then the work is left to the monitor.
func (e *Engine) CleanupAttached(ctx context.Context, c *store.Container) error {
	release, err := e.tryLock(c.ID)
	if err != nil {
		return err
	}
	defer release()
	err = e.cleanAndRemove(ctx, c, true)
	if errors.Is(err, store.ErrNoContainer) {
		return removeIfThere(e.lockPath(c.ID)) // made by the lock taken here
	}
	return err
}

// unmountHere unmounts the rootfs that a monitor's mount namespace still has,
// where the removal of the layer would go through all of the image's files.
func (e *Engine) unmountHere(id string) {
	layers, err := e.Store.Layers()
	if err != nil {
		return
	}
	lc, err := layers.Container(id)
	if err != nil {
		return
	}
	merged := filepath.Join(e.Store.Root(), layers.GraphDriverName(), lc.LayerID, "merged")
	_ = unix.Unmount(merged, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// clean removes what a run leaves outside the store: the runtime's state and
// cgroup, the network. The bundle folder stays: it has the exit record.
func (e *Engine) clean(ctx context.Context, id string) error {
	if _, err := os.Stat(filepath.Join(e.Store.RuntimeRoot(), id)); err == nil {
		// First, since the runtime's state is what says that there is work to do.
		was, err := e.removeCgroup(id)
		if err != nil {
			return err
		}
		if err := e.deleteRuntimeState(ctx, id, was); err != nil {
			return err
		}
	}
	_ = os.Remove(filepath.Join(e.Store.BundleDir(id), pausedFile))
	return netns.Teardown(ctx, e.Store.NetworkRunDir(), id)
}

// cleanAndRemove is clean, then remove; for a --rm container, of which a reboot
// leaves nothing anyway, clean beside the removal of the layer, then the rest.
func (e *Engine) cleanAndRemove(ctx context.Context, c *store.Container, volumes bool) error {
	defer e.Store.MakeRoom()()
	if !c.Config.AutoRemove {
		if err := e.clean(ctx, c.ID); err != nil {
			return err
		}
		return e.remove(ctx, c, volumes)
	}
	cleaned := make(chan error, 1)
	go func() { cleaned <- e.clean(ctx, c.ID) }()
	err := e.removeLayer(c.ID)
	if err := errors.Join(err, <-cleaned); err != nil {
		return err
	}
	return e.removeRest(ctx, c, volumes)
}

// remove deletes a container that has no processes. The record goes first: a
// container is whole or not there. What a kill or a power cut leaves after that
// is found by the mark, or by the first start after the reboot.
func (e *Engine) remove(ctx context.Context, c *store.Container, volumes bool) error {
	defer e.Store.MakeRoom()()
	mark, err := e.mark(ctx, c.ID+removing)
	if err != nil {
		return fmt.Errorf("removing container %s: %w", short(c.ID), err)
	}
	orphans, err := e.forget(ctx, c, volumes)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// The database may have to grow before it gets smaller: the layer makes room.
		if err := errors.Join(e.removeLayer(c.ID), e.removeFolders(c.ID, nil)); err != nil {
			mark.remove()
			return err
		}
		orphans, err = e.forget(ctx, c, volumes)
	}
	if err != nil {
		mark.remove()
		return err
	}
	if err := errors.Join(e.removeLayer(c.ID), e.removeFolders(c.ID, orphans), e.removeRunFiles(c.ID)); err != nil {
		mark.f.Close() // it stays, so that the next start tries again
		return err
	}
	mark.remove()
	return nil
}

// removeRest is remove without the layer, which is gone.
func (e *Engine) removeRest(ctx context.Context, c *store.Container, volumes bool) error {
	mark, err := e.mark(ctx, c.ID+removing)
	if err != nil {
		return fmt.Errorf("removing container %s: %w", short(c.ID), err)
	}
	defer mark.remove()
	orphans, err := e.forget(ctx, c, volumes)
	if err != nil {
		return err
	}
	return errors.Join(e.removeFolders(c.ID, orphans), e.removeRunFiles(c.ID))
}

// forget deletes a container's record, and with volumes those of its anonymous
// volumes, whose names it gives.
func (e *Engine) forget(ctx context.Context, c *store.Container, volumes bool) (orphans []string, err error) {
	err = e.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.DeleteContainer(c.ID); err != nil {
			return err
		}
		if !volumes {
			return nil
		}
		var err error
		orphans, err = forgetVolumes(tx, c)
		return errors.Join(err, e.noteRemovals(tx, orphans))
	})
	if err != nil {
		return nil, fmt.Errorf("removing container %s: %w", short(c.ID), err)
	}
	return orphans, nil
}

// removeFolders removes a container's logs and the folders of volumes.
func (e *Engine) removeFolders(id string, volumes []string) error {
	if err := os.RemoveAll(e.Store.ContainerDir(id)); err != nil {
		return fmt.Errorf("removing the logs of container %s: %w", short(id), err)
	}
	for _, name := range volumes {
		if err := os.RemoveAll(filepath.Dir(e.Store.VolumeDir(name))); err != nil {
			return fmt.Errorf("removing volume %s: %w", name, err)
		}
	}
	return nil
}

// removing ends the name of the mark of a container that is being removed.
const removing = ".rm"

func (e *Engine) removeRunFiles(id string) error {
	return errors.Join(os.RemoveAll(e.Store.BundleDir(id)), removeIfThere(e.lockPath(id)))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Rename gives a container another name. store.ErrNameInUse, store.ErrBadName.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		c, err := tx.Container(ref)
		if err != nil {
			return err
		}
		c.Name = name
		return tx.PutContainer(c)
	})
}

// Sweep finishes what killed processes left half done: layers that nobody
// recorded, ends that nobody wrote down, networks of containers that are gone.
// After a reboot it compares all layers with all records; else it looks only
// where marks are, so that it is cheap enough for every start.
func (e *Engine) Sweep(ctx context.Context) error {
	if err := e.sweepBoot(ctx); err != nil {
		return err
	}
	if _, err := netns.Sweep(ctx, e.Store.NetworkRunDir(), func(id string) bool {
		o, err := e.find(ctx, id)
		return err == nil && o.Running() || err != nil && !errors.Is(err, store.ErrNoContainer)
	}); err != nil {
		return fmt.Errorf("removing the networks of containers that are gone: %w", err)
	}
	marks, err := os.ReadDir(e.creatingDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, m := range marks {
		if err := e.sweepMark(ctx, m.Name()); err != nil {
			return fmt.Errorf("removing what a killed command left: %w", err)
		}
	}
	return e.sweepLocks(ctx)
}

// sweepLocks removes the locks of containers that were never recorded.
func (e *Engine) sweepLocks(ctx context.Context) error {
	locks, err := filepath.Glob(e.lockPath("*"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		id := strings.TrimSuffix(filepath.Base(path), ".lock")
		if _, err := os.Stat(e.Store.BundleDir(id)); err == nil {
			continue // saves a look into the database for each container
		}
		if _, err := e.Find(ctx, id); !errors.Is(err, store.ErrNoContainer) {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		// Whoever makes a container has its lock until the record is there.
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if _, err := e.Find(ctx, id); errors.Is(err, store.ErrNoContainer) && sameFile(f, path) {
				_ = os.Remove(path)
			}
		}
		f.Close()
	}
	return nil
}

func (e *Engine) sweepMark(ctx context.Context, name string) error {
	path := filepath.Join(e.creatingDir(), name)
	id := strings.TrimSuffix(name, removing)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // its maker lives
	}
	switch c, err := e.Find(ctx, id); {
	case errors.Is(err, store.ErrNoContainer):
		err = errors.Join(e.removeLayer(id), e.removeFolders(id, nil), e.removeRunFiles(id))
		if err != nil {
			return err
		}
	case err != nil:
		return err
	case c.Config.AutoRemove && !strings.HasSuffix(name, removing):
		if settled, err := e.sweepStart(ctx, c); !settled || err != nil {
			return err
		}
	}
	return removeIfThere(path)
}

// sweepStart removes a --rm container that was recorded as started and never
// got a monitor. (One that is kept is shown as what it is, and settled by
// whoever works on it.) Its lock goes before the mark that is held now, so
// nothing is waited for: who has it is at work, and the mark stays.
func (e *Engine) sweepStart(ctx context.Context, c *store.Container) (settled bool, err error) {
	release, err := e.tryLock(c.ID)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer release()
	state, err := monitor.ReadState(e.Store.BundleDir(c.ID))
	if err != nil || state.MonitorAlive {
		return err == nil, err
	}
	now, err := e.Find(ctx, c.ID)
	if errors.Is(err, store.ErrNoContainer) {
		return true, removeIfThere(e.lockPath(c.ID)) // made by the lock taken here
	} else if err != nil {
		return false, err
	}
	return true, e.settle(ctx, now)
}

// sweepBoot removes, once a boot, the containers' layers that no record names,
// and --rm containers that the reboot ended.
func (e *Engine) sweepBoot(ctx context.Context) error {
	done := filepath.Join(e.creatingDir(), "..", ".swept")
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	layers, err := e.Store.Layers()
	if err != nil {
		return err
	}
	// In this order: a layer whose creation goes on has its mark, or already
	// its record.
	all, err := layers.Containers()
	if err != nil {
		return err
	}
	for i := range all {
		if _, err := os.Stat(filepath.Join(e.creatingDir(), all[i].ID)); err == nil {
			all[i].Names = []string{"being created"}
		}
	}
	cs, err := e.List(ctx)
	if err != nil {
		return err
	}
	if err := e.sweepFolders(ctx); err != nil {
		e.Warn(err.Error())
	}
	known := map[string]bool{}
	for _, c := range cs {
		known[c.ID] = true
		if c.Config.AutoRemove && c.State.Status == store.StatusExited && c.Monitor == 0 {
			if err := e.Remove(ctx, c.ID, RemoveOptions{Volumes: true}); err != nil {
				e.Warn(err.Error())
			}
		}
	}
	for _, l := range all {
		// Others (buildah) may keep working containers in the same storage; ours
		// have no names there.
		if !known[l.ID] && len(l.Names) == 0 {
			if err := e.removeLayer(l.ID); err != nil {
				e.Warn(err.Error())
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(done), 0o711); err != nil {
		return err
	}
	return os.WriteFile(done, nil, 0o600)
}
