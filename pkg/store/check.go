package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Check reads all of the database and says what is wrong in it; nil is nothing.
// A file that cannot be read at all comes back as ErrCorrupt.
func (s *Store) Check(ctx context.Context) []error {
	var wrong []error
	err := s.View(ctx, func(t *Tx) error {
		if t.tx == nil {
			return nil
		}
		// By hand first, where damage is caught: bbolt looks in a goroutine of
		// its own.
		names := map[string]string{}
		err := t.tx.ForEach(func(bucket []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				if !json.Valid(v) {
					wrong = append(wrong, fmt.Errorf("record %s in %s is no JSON", k, bucket))
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		for err := range t.tx.Check() {
			wrong = append(wrong, err)
		}
		cs, err := t.Containers()
		if err != nil {
			return err
		}
		for _, c := range cs {
			names[c.Name] = c.ID
			var id string
			if err := t.Get(BucketNames, c.Name, &id); err != nil || id != c.ID {
				wrong = append(wrong, fmt.Errorf("container %.12s does not have its name %q", c.ID, c.Name))
			}
		}
		return t.Each(BucketNames, func(name string, _ []byte) error {
			if names[name] == "" {
				wrong = append(wrong, fmt.Errorf("the name %q belongs to no container", name))
			}
			return nil
		})
	})
	if err != nil {
		wrong = append(wrong, err)
	}
	return wrong
}

// RepairNames makes the names those that the containers' records say.
func (s *Store) RepairNames(ctx context.Context) error {
	return s.Update(ctx, func(t *Tx) error {
		cs, err := t.Containers()
		if err != nil {
			return err
		}
		var all []string
		if err := t.Each(BucketNames, func(name string, _ []byte) error { all = append(all, name); return nil }); err != nil {
			return err
		}
		for _, name := range all {
			if err := t.Delete(BucketNames, name); err != nil {
				return err
			}
		}
		var errs []error
		for _, c := range cs {
			errs = append(errs, t.PutContainer(c))
		}
		return errors.Join(errs...)
	})
}
