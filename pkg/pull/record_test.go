package pull

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/balena-os/balena/pkg/store"
)

func records(t *testing.T, st *store.Store) (list []Record) {
	t.Helper()
	err := st.View(t.Context(), func(tx *store.Tx) error {
		return tx.Each(store.BucketPulls, func(_ string, raw []byte) error {
			var r Record
			defer func() { list = append(list, r) }()
			return json.Unmarshal(raw, &r)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestRecordOfPullInProgress(t *testing.T) {
	needRoot(t)
	st, _ := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	reg.image("v1", "amd64", gz(baseLayer(t)))
	var during []Record
	img := mustPull(t, st, reg.host()+"/a/b:v1", Options{Progress: func(e Event) {
		if e.State == Fetching && during == nil {
			during = records(t, st)
		}
	}})
	if len(during) != 1 || during[0].Ref != "docker://"+reg.host()+"/a/b:v1" || len(during[0].Layers) != 1 || during[0].Pid == 0 {
		t.Errorf("while it pulled: %+v", during)
	}
	if left := records(t, st); len(left) != 0 {
		t.Errorf("after the pull: %+v", left)
	}
	if _, err := Remove(context.Background(), st, img.ID, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

// What a killed pull leaves is gone after the next one.
func TestStaleRecordIsSwept(t *testing.T) {
	needRoot(t)
	st, _ := openTestStore(t, "overlay")
	err := st.Update(t.Context(), func(tx *store.Tx) error {
		return tx.Put(store.BucketPulls, "dead", Record{Ref: "//x/y:z", Layers: []string{"l"}, Pid: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	reg := newTestRegistry(t)
	reg.image("v1", "amd64", gz(baseLayer(t)))
	mustPull(t, st, reg.host()+"/a/b:v1", Options{})
	if left := records(t, st); slices.ContainsFunc(left, func(r Record) bool { return r.Ref == "//x/y:z" }) {
		t.Errorf("left: %+v", left)
	}
}
