package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Version is the layout of the database that this engine reads and writes.
const Version = 1

// Buckets of the database; docs/store.md describes keys and values.
const (
	BucketMeta       = "meta"
	BucketContainers = "containers" // container ID → Container
	BucketNames      = "names"      // container name → container ID
	BucketVolumes    = "volumes"    // volume name → Volume
	BucketNetworks   = "networks"   // network name → its record
	BucketAddresses  = "addresses"  // network name/IP address → container ID
	BucketPulls      = "pulls"      // pull ID → what is being pulled
	BucketRegistries = "registries" // HOST[:PORT] → what a registry can do
	BucketRemovals   = "removals"   // name of a volume whose record is gone → when its folder was to go
)

var buckets = []string{BucketContainers, BucketNames, BucketVolumes, BucketNetworks, BucketAddresses, BucketPulls, BucketRegistries, BucketRemovals}

// Errors that callers tell apart.
var (
	ErrCorrupt = errors.New("the database is damaged")
	ErrVersion = errors.New("the database has a layout that this engine does not know")
	ErrBusy    = errors.New("the database is locked by another process")
	ErrNoKey   = errors.New("no such record")
)

// lockWait bounds how long a transaction waits for the others'. Theirs last
// milliseconds, so whoever holds the lock longer than this is stuck.
const lockWait = 30 * time.Second

// Tx is one transaction: what View and Update give their function. It is
// valid, and what it returns is, only until that function returns, but for
// decoded records, which are the caller's own.
type Tx struct {
	tx *bolt.Tx // nil: the database does not exist yet
}

// DatabasePath is the bbolt file.
func (s *Store) DatabasePath() string { return filepath.Join(s.o.Root, "balena.db") }

// View runs fn in a read-only transaction, beside any number of others. A
// database that does not exist yet reads as empty.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	return s.transact(ctx, false, fn)
}

// Update runs fn in a read-write transaction: the only one at that time. When
// it returns nil, all that fn wrote is on stable storage; after an error
// nothing of it is. fn is called a second time when the disk was full.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	return s.transact(ctx, true, fn)
}

func (s *Store) transact(ctx context.Context, write bool, fn func(*Tx) error) error {
	lock, err := s.lock(ctx, write)
	if err != nil {
		return err
	}
	defer lock.Close()
	path := s.DatabasePath()
	if st, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if !write {
			return fn(&Tx{})
		}
		if err := create(path); err != nil {
			return fmt.Errorf("making the database %s: %w", path, err)
		}
	} else if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	} else if st.Size() == 0 {
		// bbolt would take an emptied file for a new one and forget everything.
		return s.corrupt("it is empty")
	}
	err = s.inDatabase(path, write, fn)
	if write && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		// The file may have to grow even for a deletion.
		done := s.MakeRoom()
		err = s.inDatabase(path, write, fn)
		done()
	}
	return err
}

// inDatabase opens the file for one transaction. bbolt reads through a memory
// map and panics over pages that make no sense; a truncated file even faults.
// Both become ErrCorrupt here. A panic of fn itself goes on. The list of free
// pages is kept in the file although that costs a page a commit: without it
// bbolt walks all pages in a goroutine of its own, whose panics nobody catches.
func (s *Store) inDatabase(path string, write bool, fn func(*Tx) error) (err error) {
	inFn := false
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if inFn && !isBoltPanic(r) {
				panic(r)
			}
			// Nobody else gives back the file and its lock when opening panics.
			_ = file.Close()
			err = s.corrupt(fmt.Sprint(r))
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		ReadOnly: !write, Timeout: time.Second, FreelistType: bolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	switch {
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return s.corrupt(err.Error())
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: %s", ErrBusy, path)
	case err != nil:
		return fmt.Errorf("opening the database %s: %w", path, err)
	}
	defer func() {
		if cerr := db.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("closing the database %s: %w", path, cerr)
		}
	}()
	tx, err := db.Begin(write)
	if err != nil {
		return fmt.Errorf("beginning a transaction in %s: %w", path, err)
	}
	defer func() { _ = tx.Rollback() }()
	if st, err := os.Stat(path); err == nil && st.Size() < tx.Size() {
		return s.corrupt(fmt.Sprintf("it is cut short: %d of %d bytes", st.Size(), tx.Size()))
	}
	t := &Tx{tx: tx}
	if err := s.checkVersion(t); err != nil {
		return err
	}
	inFn = true
	err = fn(t)
	inFn = false
	if err != nil || !write {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("writing the database %s: %w", path, err)
	}
	return nil
}

// isBoltPanic tells bbolt's complaints about pages and memory faults from
// faults of the caller's code: the latter are runtime errors other than
// faulting addresses.
func isBoltPanic(r any) bool {
	switch v := r.(type) {
	case string:
		return true
	case interface{ Addr() uintptr }:
		return v.Addr() > 4096
	default:
		return false
	}
}

func (s *Store) corrupt(what string) error {
	return fmt.Errorf("%w: %s: %s", ErrCorrupt, s.DatabasePath(), what)
}

// create makes an initialised database appear whole or not at all.
func create(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(tmp, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists([]byte(BucketMeta))
		if err != nil {
			return err
		}
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		v, err := json.Marshal(Version)
		if err != nil {
			return err
		}
		return meta.Put([]byte("version"), v)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *Store) checkVersion(t *Tx) error {
	var v int
	if err := t.Get(BucketMeta, "version", &v); err != nil {
		return s.corrupt("it has no version")
	}
	if v != Version {
		return fmt.Errorf("%w: %s has version %d, this engine knows version %d", ErrVersion, s.DatabasePath(), v, Version)
	}
	return nil
}

// Get decodes the record at key into v (a pointer). ErrNoKey when there is none.
func (t *Tx) Get(bucket, key string, v any) error {
	var raw []byte
	if t.tx != nil {
		if b := t.tx.Bucket([]byte(bucket)); b != nil {
			raw = b.Get([]byte(key))
		}
	}
	if raw == nil {
		return fmt.Errorf("%w: %s in %s", ErrNoKey, key, bucket)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: record %s in %s: %w", ErrCorrupt, key, bucket, err)
	}
	return nil
}

// Put stores v as JSON at key.
func (t *Tx) Put(bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding record %s in %s: %w", key, bucket, err)
	}
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bucket, err)
	}
	return b.Put([]byte(key), raw)
}

// Delete removes the record at key; none there is no error.
func (t *Tx) Delete(bucket, key string) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Delete([]byte(key))
}

// Each calls fn for every record of a bucket in the order of the keys. raw is
// JSON and valid only during the call.
func (t *Tx) Each(bucket string, fn func(key string, raw []byte) error) error {
	if t.tx == nil {
		return nil
	}
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error { return fn(string(k), v) })
}

// lock takes the lock that orders transactions, shared to read and exclusive
// to write. bbolt has one of its own, but polls it every 50 ms, which is ten
// times as long as a transaction takes.
func (s *Store) lock(ctx context.Context, write bool) (*os.File, error) {
	path := filepath.Join(s.o.Root, "balena.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the database's lock: %w", err)
	}
	how := unix.LOCK_SH
	if write {
		how = unix.LOCK_EX
	}
	deadline := time.Now().Add(lockWait)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if time.Now().After(deadline) {
			holder := lockHolder(f)
			f.Close()
			return nil, fmt.Errorf("%w: %s, held for more than %s by %s", ErrBusy, path, lockWait, holder)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}
