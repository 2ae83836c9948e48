package copier

import "testing"

type descriptor struct {
	Size int64    `json:"size"`
	URLs []string `json:"urls,omitempty"`
}

func TestCopy(t *testing.T) {
	type from struct {
		Version   int                    `json:"schemaVersion"`
		Manifests []struct{ descriptor } `json:"manifests"`
	}
	type to struct {
		Version   int `json:"schemaVersion"`
		Manifests []struct {
			descriptor
			Files []string
		} `json:"manifests"`
	}
	in := from{Version: 2, Manifests: []struct{ descriptor }{{descriptor{7, []string{"u"}}}}}
	var out to
	if err := Copy(&out, &in); err != nil {
		t.Fatal(err)
	}
	if out.Version != 2 || len(out.Manifests) != 1 || out.Manifests[0].Size != 7 || out.Manifests[0].URLs[0] != "u" {
		t.Errorf("got %+v", out)
	}
	if err := Copy(&out, func() {}); err == nil {
		t.Error("a function was copied")
	}
}

func TestCopySameType(t *testing.T) {
	type settings struct {
		Insecure bool
		hidden   string
		Stop     <-chan struct{}
	}
	in := settings{true, "x", make(chan struct{})}
	var out settings
	if err := Copy(&out, &in); err != nil || out != in {
		t.Errorf("got %+v, %v, expected %+v", out, err, in)
	}
}
