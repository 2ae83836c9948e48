package run

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/store"
)

// codeUnknown is the exit code of a container whose end nobody saw: the power
// was cut, or its monitor was killed. Docker reports the same.
const codeUnknown = 255

// pausedFile in the bundle folder says that the container was paused.
const pausedFile = "paused"

// Observed is a container as it is now: its record, corrected by what the
// kernel says about its processes.
type Observed struct {
	*store.Container
	Pid     int         // of its first process as we see it; 0: none runs
	Monitor int         // pid of its monitor; 0: none runs
	Network netns.State // what it was given at its start
	run     monitor.RunState
	dir     string // of its bundle
}

// Observe looks at what became of a container. It writes nothing.
func (e *Engine) Observe(c *store.Container) (*Observed, error) {
	return e.observe(c, e.locked)
}

// observe is Observe; starting tells whether somebody is starting the
// container now, who is not the caller.
func (e *Engine) observe(c *store.Container, starting func(id string) bool) (*Observed, error) {
	dir := e.Store.BundleDir(c.ID)
	o := &Observed{Container: c, dir: dir}
	var err error
	if o.run, err = monitor.ReadState(dir); err != nil {
		return nil, err
	}
	st := &c.State
	switch {
	case o.run.Alive:
		o.Pid = o.run.Run.Pid
		st.Status = store.StatusRunning
		if _, err := os.Stat(filepath.Join(dir, pausedFile)); err == nil {
			st.Status = store.StatusPaused
		}
		st.Started, st.Restarts = o.run.Run.Started, o.run.Run.Restarts
	case o.run.Restarting():
		st.Status = store.StatusRestarting
	case o.run.Exit != nil:
		monitor.Record(st, *o.run.Exit)
	case st.Status == store.StatusRunning && starting(c.ID):
		st.Status = store.StatusCreated // it is just being started
	case st.Status == store.StatusRunning:
		// It was started, nothing of it runs, and nobody wrote down its end.
		monitor.Record(st, monitor.Exit{Restarts: st.Restarts, Code: codeUnknown, Error: "its end was not seen: the power was cut or its monitor was killed"})
	}
	if o.run.MonitorAlive && o.run.Run.MonitorPid != 0 {
		o.Monitor = o.run.Run.MonitorPid
	}
	if o.Pid != 0 {
		if o.Network, err = netns.Load(e.Store.NetworkRunDir(), c.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if o.Network.Mode == "" {
			o.Network.Mode = networkMode(&c.Config)
		}
	}
	return o, nil
}

func networkMode(c *store.Config) string {
	if c.Network == "" {
		return netns.ModeBridge
	}
	return c.Network
}

// Running tells whether the container has processes.
func (o *Observed) Running() bool { return o.Pid != 0 }

// List observes all containers, the youngest first.
func (e *Engine) List(ctx context.Context) ([]*Observed, error) {
	var cs []*store.Container
	err := e.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		cs, err = tx.Containers()
		return err
	})
	if err != nil {
		return nil, err
	}
	list := make([]*Observed, 0, len(cs))
	for _, c := range cs {
		o, err := e.Observe(c)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	sortByAge(list)
	return list, nil
}

// find looks a container up and observes it.
func (e *Engine) find(ctx context.Context, ref string) (*Observed, error) {
	c, err := e.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return e.Observe(c)
}

// Uptime is how long it has run.
func (o *Observed) Uptime(now time.Time) time.Duration { return now.Sub(o.State.Started) }
