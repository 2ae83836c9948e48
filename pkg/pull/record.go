package pull

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/balena-os/balena/pkg/store"
)

// Record is a pull in progress, in the store's bucket of pulls under a random
// ID. It is made when there is something to fetch and goes with the pull,
// however that ends; what a killed one or a power cut leaves, Sweep removes.
type Record struct {
	Ref     string   // what is being pulled
	Layers  []string // IDs of the layers that were missing at its beginning
	Started time.Time
	Pid     int
}

// announce records that the missing layers are being fetched.
func (p *puller) announce(ctx context.Context, ref string, missing []*layer) (done func(), err error) {
	if len(missing) == 0 {
		return func() {}, nil
	}
	r := Record{Ref: ref, Started: time.Now().UTC(), Pid: os.Getpid()}
	for _, l := range missing {
		r.Layers = append(r.Layers, l.id)
	}
	id := rand.Text()
	err = p.st.Update(ctx, func(tx *store.Tx) error { return tx.Put(store.BucketPulls, id, r) })
	if err != nil {
		return nil, fmt.Errorf("recording the pull: %w", err)
	}
	return func() {
		// A record that stays is harmless, and Sweep's.
		_ = p.st.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.Delete(store.BucketPulls, id) })
	}, nil
}

// forgetRecords removes the records of pulls that are no more. The caller knows
// that none is at work.
func forgetRecords(ctx context.Context, st *store.Store) error {
	var stale []string
	list := func(tx *store.Tx) error {
		stale = nil
		return tx.Each(store.BucketPulls, func(id string, _ []byte) error {
			stale = append(stale, id)
			return nil
		})
	}
	if err := st.View(ctx, list); err != nil || len(stale) == 0 {
		return err
	}
	return st.Update(ctx, func(tx *store.Tx) error {
		for _, id := range stale {
			if err := tx.Delete(store.BucketPulls, id); err != nil {
				return err
			}
		}
		return nil
	})
}
