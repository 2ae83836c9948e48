// Package fsnotify takes the place of github.com/fsnotify/fsnotify, with which
// containers/common would wait for files to change.
//
// Lost: nothing: its one caller here looks again at intervals instead.
package fsnotify

import "errors"

// ErrNotSupported is what every function returns.
var ErrNotSupported = errors.New("watching files is not supported by balena")

// Op is a kind of change.
type Op uint32

// The kinds of change.
const (
	Create Op = 1 << iota
	Write
	Remove
	Rename
	Chmod
)

// Event would be a change.
type Event struct {
	Name string
	Op   Op
}

// Has tells whether a change is of a kind.
func (e Event) Has(op Op) bool { return e.Op&op != 0 }

// Watcher would watch.
type Watcher struct {
	Events chan Event
	Errors chan error
}

// NewWatcher returns ErrNotSupported.
func NewWatcher() (*Watcher, error) { return nil, ErrNotSupported }

// Add returns ErrNotSupported.
func (*Watcher) Add(string) error { return ErrNotSupported }

// Remove returns ErrNotSupported.
func (*Watcher) Remove(string) error { return ErrNotSupported }

// Close does nothing.
func (*Watcher) Close() error { return nil }
