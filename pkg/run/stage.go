package run

import (
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/monitor"
)

// stage is where a container is started: a thread with a mount namespace of its
// own, which the monitor and the container inherit, so that what is mounted
// there is gone when they are, however they end; and the monitor, which gets
// ready there while layer and record are made.
type stage struct {
	work    chan func(error)
	monitor *monitor.Prepared // for the thread only; nil once it was started
	closed  bool
}

// newStage begins to make a stage for a container. close ends it.
func (e *Engine) newStage(id string) (*stage, error) {
	layers, err := e.Store.Layers()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(e.Store.Root(), layers.GraphDriverName())
	s := &stage{work: make(chan func(error))}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := mountNamespace(home)
		if err == nil {
			s.monitor, err = monitor.Prepare(id, len(e.Runtime) == 0)
		}
		for fn := range s.work {
			fn(err)
		}
	}()
	return s, nil
}

// mountNamespace gives the calling thread a mount namespace in which the
// storage is private. Everything else keeps its propagation, so that volumes
// mounted with rshared work.
func mountNamespace(home string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount(home, home, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %s: %w", home, err)
	}
	if err := unix.Mount("", home, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making %s private: %w", home, err)
	}
	return nil
}

// do runs fn on the stage's thread.
func (s *stage) do(fn func() error) error {
	done := make(chan error)
	s.work <- func(err error) {
		if err == nil {
			err = fn()
		}
		done <- err
	}
	return <-done
}

// start is monitor.Prepared.Start, once, inside do.
func (s *stage) start(cfg monitor.Config, files monitor.Files) error {
	m := s.monitor
	s.monitor = nil
	_, err := m.Start(cfg, files)
	return err
}

// close ends the thread, and the monitor if it was not started. Again is fine.
func (s *stage) close() {
	if s.closed {
		return
	}
	s.closed = true
	done := make(chan struct{})
	s.work <- func(error) {
		if s.monitor != nil {
			s.monitor.Close()
		}
		close(done)
	}
	<-done
	close(s.work)
}
