package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, cs ...*Container) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *Tx) error {
		for _, c := range cs {
			if err := tx.PutContainer(c); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestMissingDatabaseReadsAsEmpty(t *testing.T) {
	s := open(t)
	err := s.View(t.Context(), func(tx *Tx) error {
		if cs, err := tx.Containers(); err != nil || len(cs) != 0 {
			return fmt.Errorf("containers: %v, %w", cs, err)
		}
		_, err := tx.Container("web")
		return err
	})
	if !errors.Is(err, ErrNoContainer) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(s.DatabasePath()); err == nil {
		t.Fatal("reading made a database")
	}
}

func TestContainerLookup(t *testing.T) {
	s := open(t)
	put(t, s, &Container{ID: "aaa111", Name: "web"}, &Container{ID: "aab222", Name: "db"}, &Container{ID: "ccc333", Name: "aaa"})
	for _, tc := range []struct {
		ref, id string
		err     error
	}{
		{"web", "aaa111", nil},
		{"aab222", "aab222", nil},
		{"aab", "aab222", nil},
		{"aa", "", ErrAmbiguous},
		{"aaa", "ccc333", nil}, // a name goes before the beginning of an ID
		{"zzz", "", ErrNoContainer},
		{"", "", ErrNoContainer},
	} {
		err := s.View(t.Context(), func(tx *Tx) error {
			c, err := tx.Container(tc.ref)
			if err == nil && c.ID != tc.id {
				t.Errorf("%q: got %s, want %s", tc.ref, c.ID, tc.id)
			}
			return err
		})
		if !errors.Is(err, tc.err) {
			t.Errorf("%q: got %v, want %v", tc.ref, err, tc.err)
		}
	}
}

func TestNamesAreUniqueAndFollowRename(t *testing.T) {
	s := open(t)
	put(t, s, &Container{ID: "a1", Name: "web"})
	update := func(c *Container) error {
		return s.Update(t.Context(), func(tx *Tx) error { return tx.PutContainer(c) })
	}
	if err := update(&Container{ID: "b2", Name: "web"}); !errors.Is(err, ErrNameInUse) {
		t.Fatalf("second container of the name: %v", err)
	}
	for _, bad := range []string{"", "-x", "a b", "ü", "a/b"} {
		if err := update(&Container{ID: "b2", Name: bad}); !errors.Is(err, ErrBadName) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	if err := update(&Container{ID: "a1", Name: "old"}); err != nil {
		t.Fatal(err)
	}
	if err := update(&Container{ID: "b2", Name: "web"}); err != nil {
		t.Fatalf("the name was given up: %v", err)
	}
	err := s.Update(t.Context(), func(tx *Tx) error { return errors.Join(tx.DeleteContainer("b2"), tx.DeleteContainer("nosuch")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := update(&Container{ID: "c3", Name: "web"}); err != nil {
		t.Fatalf("the name went with its container: %v", err)
	}
}

func TestFailedUpdateWritesNothing(t *testing.T) {
	s := open(t)
	boom := errors.New("boom")
	err := s.Update(t.Context(), func(tx *Tx) error {
		if err := tx.PutContainer(&Container{ID: "a1", Name: "web"}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	err = s.View(t.Context(), func(tx *Tx) error { _, err := tx.Container("web"); return err })
	if !errors.Is(err, ErrNoContainer) {
		t.Fatalf("got %v", err)
	}
}

func TestManyInvocationsAtOnce(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			// A Store of its own: what an invocation has.
			own, err := Open(s.o)
			if err != nil {
				t.Error(err)
				return
			}
			id := fmt.Sprintf("id%03d", i)
			if err := own.Update(t.Context(), func(tx *Tx) error { return tx.PutContainer(&Container{ID: id, Name: id}) }); err != nil {
				t.Error(err)
			}
			if err := own.View(t.Context(), func(tx *Tx) error { _, err := tx.Container(id); return err }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_ = s.View(t.Context(), func(tx *Tx) error {
		if cs, err := tx.Containers(); err != nil || len(cs) != 100 {
			t.Errorf("%d containers, %v", len(cs), err)
		}
		return nil
	})
}

func TestBusyEndsWithContextAndNamesHolder(t *testing.T) {
	s := open(t)
	f, err := os.OpenFile(filepath.Join(s.Root(), "balena.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.View(ctx, func(*Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if h := lockHolder(f); !strings.Contains(h, fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("holder: %s", h)
	}
}

// A power cut or a bad card may leave anything: never a panic, always
// ErrCorrupt with the file's name.
func TestDamagedDatabase(t *testing.T) {
	for name, damage := range map[string]func(path string, size int64) error{
		"emptied":      func(p string, _ int64) error { return os.Truncate(p, 0) },
		"cut to 1 KB":  func(p string, _ int64) error { return os.Truncate(p, 1024) },
		"cut to half":  func(p string, n int64) error { return os.Truncate(p, n/2) },
		"cut to meta":  func(p string, _ int64) error { return os.Truncate(p, 8192) },
		"zeroed":       func(p string, n int64) error { return os.WriteFile(p, make([]byte, n), 0o600) },
		"not bbolt":    func(p string, _ int64) error { return os.WriteFile(p, []byte(strings.Repeat("hello ", 9000)), 0o600) },
		"pages zeroed": func(p string, n int64) error { return overwrite(p, 8192, n, 0) },
		"pages 0xff":   func(p string, n int64) error { return overwrite(p, 8192, n, 0xff) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			var cs []*Container
			for i := range 200 {
				cs = append(cs, &Container{ID: fmt.Sprintf("id%03d", i), Name: fmt.Sprintf("n%03d", i), Image: strings.Repeat("x", 200)})
			}
			put(t, s, cs...)
			st, err := os.Stat(s.DatabasePath())
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(s.DatabasePath(), st.Size()); err != nil {
				t.Fatal(err)
			}
			err = s.View(t.Context(), func(tx *Tx) error { _, err := tx.Containers(); return err })
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), s.DatabasePath()) {
				t.Errorf("reading: %v", err)
			}
			err = s.Update(t.Context(), func(tx *Tx) error { return tx.PutContainer(&Container{ID: "new", Name: "new"}) })
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("writing: %v", err)
			}
		})
	}
}

func overwrite(path string, from, to int64, with byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, to-from)
	for i := range b {
		b[i] = with
	}
	_, err = f.WriteAt(b, from)
	return err
}

func TestNewerVersionIsRefused(t *testing.T) {
	s := open(t)
	put(t, s, &Container{ID: "a1", Name: "web"})
	db, err := bolt.Open(s.DatabasePath(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(BucketMeta)).Put([]byte("version"), []byte("7")) }); err != nil {
		t.Fatal(err)
	}
	db.Close()
	err = s.View(t.Context(), func(*Tx) error { return nil })
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "version 7") || !strings.Contains(err.Error(), "version 1") {
		t.Fatalf("got %v", err)
	}
}

// What a killed creation leaves is a temporary file, never half a database.
func TestCreationIsAtomic(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(s.DatabasePath()+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, s, &Container{ID: "a1", Name: "web"})
	if _, err := os.Stat(s.DatabasePath() + ".new"); err == nil {
		t.Error("the temporary file stayed")
	}
}

func TestPanicOfCallerGoesOn(t *testing.T) {
	s := open(t)
	put(t, s, &Container{ID: "a1", Name: "web"})
	defer func() {
		if recover() == nil {
			t.Fatal("the panic was taken for a damaged database")
		}
	}()
	_ = s.View(t.Context(), func(*Tx) error {
		panic(errors.New("a bug"))
	})
}

func TestDefaultOptions(t *testing.T) {
	run := t.TempDir()
	for _, tc := range []struct {
		name          string
		uid           int
		env           map[string]string
		root, runRoot string
		fails         bool
	}{
		{"root", 0, nil, "/var/lib/balena", "/run/balena", false},
		{"user", 1000, map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": run}, "/home/u/.local/share/balena", run + "/balena", false},
		{"data home", 1000, map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "/data", "XDG_RUNTIME_DIR": run}, "/data/balena", run + "/balena", false},
		{"no runtime dir", 1000, map[string]string{"HOME": "/home/u"}, "/home/u/.local/share/balena", "/tmp/balena-run-1000", false},
		{"stale runtime dir", 1000, map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/nosuch"}, "/home/u/.local/share/balena", "/tmp/balena-run-1000", false},
		{"no home", 1000, nil, "", "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := DefaultOptions(tc.uid, func(k string) string { return tc.env[k] })
			if (err != nil) != tc.fails || o.Root != tc.root || o.RunRoot != tc.runRoot {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

func TestOpenRefusesWhatItCannotTrust(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(Options{Root: "relative", RunRoot: dir}); err == nil {
		t.Error("a relative root was taken")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a folder away")
	}
	foreign := filepath.Join(dir, "foreign")
	if err := os.Mkdir(foreign, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(foreign, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Root: dir, RunRoot: foreign}); err == nil || !strings.Contains(err.Error(), "4242") {
		t.Errorf("somebody else's folder: %v", err)
	}
}

// FuzzContainerRecord feeds foreign bytes to the decoder of records.
func FuzzContainerRecord(f *testing.F) {
	f.Add([]byte(`{"ID":"a1","Name":"web","State":{"Status":"running"}}`))
	f.Add([]byte(`{"Config":{"Mounts":[{}],"StopTimeout":-1}}`))
	f.Add([]byte("\x00"))
	dir := f.TempDir()
	s, err := Open(Options{Root: dir, RunRoot: dir})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := s.Update(t.Context(), func(tx *Tx) error {
			return tx.tx.Bucket([]byte(BucketContainers)).Put([]byte("a1"), raw)
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.View(t.Context(), func(tx *Tx) error {
			if _, err := tx.Container("a1"); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNoContainer) {
				t.Errorf("got %v", err)
			}
			return nil
		})
	})
}
