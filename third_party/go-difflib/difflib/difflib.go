// Package difflib takes the place of the package of this name of
// github.com/pmezard/go-difflib, with which containers/common writes to its
// debug log what an OCI hook changed.
//
// Lost: lines that were only moved count as changed.
package difflib

import "strings"

// UnifiedDiff is what is compared.
type UnifiedDiff struct {
	A, B                               []string
	FromFile, FromDate, ToFile, ToDate string
	Context                            int
}

// SplitLines splits behind the ends of lines.
func SplitLines(s string) []string { return strings.SplitAfter(s, "\n") }

// GetUnifiedDiffString lists the lines that only one side has, in the order of
// that side.
func GetUnifiedDiffString(d UnifiedDiff) (string, error) {
	var out strings.Builder
	only := func(mark string, a, b []string) {
		have := map[string]int{}
		for _, l := range b {
			have[l]++
		}
		for _, l := range a {
			if have[l] > 0 {
				have[l]--
				continue
			}
			out.WriteString(mark + strings.TrimSuffix(l, "\n") + "\n")
		}
	}
	only("-", d.A, d.B)
	only("+", d.B, d.A)
	if out.Len() == 0 {
		return "", nil
	}
	return "--- " + d.FromFile + "\n+++ " + d.ToFile + "\n" + out.String(), nil
}
