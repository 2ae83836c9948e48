package build

import (
	"slices"
	"sync"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/regexp"

	"github.com/balena-os/balena/pkg/durable"
)

// stepNames keeps the names that buildah gives every step while it commits it
// in memory: in the store they would cost two more writes of all images'
// records each, and a killed build would leave them for all to see.
type stepNames struct {
	storage.Store
	mu  sync.Mutex
	ids map[string]string // name → ID of the image
}

var stepName = regexp.Delayed(`(^|/)[0-9a-f]{64}-tmp:latest$`)

// split takes the steps' names out of names.
func split(names []string) (steps, others []string) {
	for _, n := range names {
		if stepName.MatchString(n) {
			steps = append(steps, n)
		} else {
			others = append(others, n)
		}
	}
	return steps, others
}

// AddNames is storage.Store's: what has got a name is on stable storage.
func (s *stepNames) AddNames(id string, names []string) error {
	steps, others := split(names)
	if len(steps) == 0 || len(others) > 0 {
		if err := s.Store.AddNames(id, others); err != nil {
			return err
		}
	} else if err := durable.Sync(s.GraphRoot()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range steps {
		s.ids[n] = id
	}
	return nil
}

// RemoveNames is storage.Store's.
func (s *stepNames) RemoveNames(id string, names []string) error {
	steps, others := split(names)
	s.mu.Lock()
	for _, n := range steps {
		delete(s.ids, n)
	}
	s.mu.Unlock()
	if len(others) == 0 {
		return nil
	}
	return s.Store.RemoveNames(id, others)
}

// Image is storage.Store's.
func (s *stepNames) Image(name string) (*storage.Image, error) {
	s.mu.Lock()
	id, ok := s.ids[name]
	s.mu.Unlock()
	if !ok {
		return s.Store.Image(name)
	}
	img, err := s.Store.Image(id)
	if err != nil {
		return nil, err
	}
	named := *img
	named.Names = append(slices.Clone(img.Names), name)
	return &named, nil
}
