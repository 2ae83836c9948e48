// Package runewidth takes the place of github.com/mattn/go-runewidth, with
// which the progress bars of containers/image pad and cut their text. The
// original fills a table of every rune in its init function, at each start of
// the program: 18 ms and 2.2 MB of memory, whether or not a bar is drawn.
//
// Lost: East Asian locales' "ambiguous" widths, emoji sequences joined into
// one picture, and the rest of the package's API. What is drawn here are image
// names, digests and sizes.
package runewidth

import "strings"

// wide holds the ranges whose runes take two cells, in order.
var wide = [...][2]rune{
	{0x1100, 0x115f}, {0x2e80, 0x303e}, {0x3041, 0xa4cf}, {0xa960, 0xa97c},
	{0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe30, 0xfe6f}, {0xff01, 0xff60},
	{0xffe0, 0xffe6}, {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1faff},
	{0x20000, 0x3fffd},
}

// RuneWidth returns the number of cells that r takes on a terminal: 0, 1 or 2.
func RuneWidth(r rune) int {
	switch {
	case r < 0x20 || r >= 0x7f && r < 0xa0:
		return 0
	case r < 0x300:
		return 1
	case r <= 0x36f, r >= 0x200b && r <= 0x200f, r >= 0xfe00 && r <= 0xfe0f, r == 0xfeff:
		return 0
	}
	for _, w := range wide {
		if r < w[0] {
			break
		}
		if r <= w[1] {
			return 2
		}
	}
	return 1
}

// StringWidth returns the number of cells that s takes.
func StringWidth(s string) int {
	n := 0
	for _, r := range s {
		n += RuneWidth(r)
	}
	return n
}

// Truncate cuts s to at most w cells, ending it with tail if it was cut.
func Truncate(s string, w int, tail string) string {
	if StringWidth(s) <= w {
		return s
	}
	w -= StringWidth(tail)
	n := 0
	for i, r := range s {
		rw := RuneWidth(r)
		if n+rw > w {
			return s[:i] + tail
		}
		n += rw
	}
	return s + tail
}

// FillLeft puts spaces before s until it takes w cells.
func FillLeft(s string, w int) string {
	return strings.Repeat(" ", max(0, w-StringWidth(s))) + s
}

// FillRight puts spaces after s until it takes w cells.
func FillRight(s string, w int) string {
	return s + strings.Repeat(" ", max(0, w-StringWidth(s)))
}
