package store

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// reserveSize is the size of a file that only keeps room: taking things
	// away needs some, for containers/storage writes its records anew and
	// moves folders, and the database may grow by a page.
	reserveSize = 2 << 20
	// reserveAt is how much has to be free for the file to be made, and how
	// little for it to be used.
	reserveAt  = 32 << 20
	reserveUse = 2 << 20
	// reserveRest is what is left to others.
	reserveRest = 256 << 10
)

func (s *Store) reservePath() string { return filepath.Join(s.o.Root, "reserve") }

// KeepReserve puts room aside for removals on a full disk, where there is
// plenty and it is not done yet. Not being able to is no error.
func (s *Store) KeepReserve() {
	if st, err := os.Lstat(s.reservePath()); err == nil && st.Size() >= reserveSize || s.Free() < reserveAt {
		return
	}
	s.reserve(reserveSize)
}

func (s *Store) reserve(size int64) {
	f, err := os.OpenFile(s.reservePath(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		_ = os.Remove(s.reservePath())
	}
}

// MakeRoom gives the reserve up if the disk is full; call it before something
// is taken away, and done after that.
func (s *Store) MakeRoom() (done func()) {
	if s.Free() >= reserveUse {
		return func() {}
	}
	_ = os.Remove(s.reservePath())
	return func() {
		if size := min(reserveSize, s.Free()-reserveRest); size > 0 {
			s.reserve(size) // as much as there is now
		}
	}
}

// Free is how many bytes may still be written below the root.
func (s *Store) Free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(s.o.Root, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * int64(st.Bsize)
}
