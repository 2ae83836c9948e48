package runewidth

import "testing"

func TestWidths(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "é": 1, "e\u0301": 1, "世界": 4, "…": 1, "█": 1, "⠋": 1, "한": 2, "\t": 0, "🚢": 2} {
		if got := StringWidth(s); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
	for _, c := range []struct{ got, want string }{
		{Truncate("abcdef", 6, "…"), "abcdef"},
		{Truncate("abcdef", 4, "…"), "abc…"},
		{Truncate("世界", 3, "…"), "世…"},
		{Truncate("世界", 2, "…"), "…"},
		{FillLeft("ab", 4), "  ab"},
		{FillRight("世", 4), "世  "},
		{FillRight("abcdef", 4), "abcdef"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
