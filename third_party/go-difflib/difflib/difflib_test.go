package difflib

import "testing"

func TestGetUnifiedDiffString(t *testing.T) {
	d := UnifiedDiff{A: SplitLines("a\nb\nb\n"), B: SplitLines("a\nc\nb\n"), FromFile: "x", ToFile: "y"}
	if got, err := GetUnifiedDiffString(d); err != nil || got != "--- x\n+++ y\n-b\n+c\n" {
		t.Errorf("got %q, %v", got, err)
	}
	d.B = d.A
	if got, _ := GetUnifiedDiffString(d); got != "" {
		t.Errorf("the same: %q", got)
	}
}
