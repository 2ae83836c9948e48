package durable

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Sync writes everything of the filesystem that path lies on to stable
// storage: file contents, directory entries, renames.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncing the filesystem of %s: %w", path, err)
	}
	return nil
}

// SyncDir makes creations, removals and renames in a directory durable.
func SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing folder %s: %w", path, err)
	}
	return nil
}

// flagDurable marks layers in layers.json that were written by this package.
const flagDurable = "durable"

// barrier puts a sync between a layer's files and the record that calls it
// complete.
//
// containers/storage writes a layer's small files (link, lower) while it holds
// its lock, right before layers.json, and syncs neither them nor directories
// unless the whole store is opened with sync=filesystem, which every start of
// a container would then wait for. The value of a layer's flag is the one place
// where it calls back in between: it is turned into JSON after the files are in
// place and before layers.json is written.
type barrier struct {
	dir   string
	times int // how often to sync; 0: whenever the record is written
	skip  int // how often the record is written before that

	mu      sync.Mutex
	written int
	done    int
	err     error
}

// MarshalJSON gives true, which is what stays in layers.json.
func (b *barrier) MarshalJSON() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.written++
	if b.dir != "" && b.written > b.skip && (b.times == 0 || b.done < b.times) {
		b.done++
		if b.err = Sync(b.dir); b.err != nil {
			return nil, b.err
		}
	}
	return []byte("true"), nil
}

// check ends the barrier's work: later writes of the record by this process
// are not its business.
func (b *barrier) check() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	dir := b.dir
	b.dir = ""
	if b.done == 0 { // a store that no longer calls back: late, but not never
		return Sync(dir)
	}
	return b.err
}

// IsDurable tells by a layer's flags whether this package wrote it.
func IsDurable(flags map[string]any) bool {
	switch v := flags[flagDurable].(type) {
	case bool:
		return v
	case *barrier:
		return true
	}
	return false
}
