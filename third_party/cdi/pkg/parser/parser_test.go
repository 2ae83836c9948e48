package parser

import "testing"

func TestIsQualifiedName(t *testing.T) {
	for name, want := range map[string]bool{
		"vendor.com/gpu=0": true, "/dev/fuse": false, "/dev/a=b": false, "vendor.com/gpu": false, "a/b=": false, "/x=1": false,
	} {
		if got := IsQualifiedName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
