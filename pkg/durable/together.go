package durable

import "sync"

// together has callers share syncs of the one filesystem that they all write
// to: each is answered by one that began after its call, and one runs at a time,
// so that layers which are extracted side by side cost no more commits of the
// journal than one does.
type together struct {
	sync func(fd int) error

	mu          sync.Mutex
	over        sync.Cond
	began, done uint64 // how many syncs
	failed      uint64 // the latest that failed, and how
	err         error
}

func newTogether(f func(fd int) error) *together {
	t := &together{sync: f}
	t.over.L = &t.mu
	return t
}

// do returns once everything that was written before the call is on stable
// storage. fd is any descriptor on the filesystem.
func (t *together) do(fd int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine := t.began + 1
	for t.done < mine {
		if t.began > t.done {
			t.over.Wait()
			continue
		}
		t.began++
		t.mu.Unlock()
		err := t.sync(fd)
		t.mu.Lock()
		t.done = t.began
		if err != nil {
			t.failed, t.err = t.done, err
		}
		t.over.Broadcast()
	}
	if t.failed >= mine {
		return t.err
	}
	return nil
}
