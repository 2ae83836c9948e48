package versions

import "testing"

func TestLessThan(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"1.8.2", "1.8.3", true}, {"1.8.3", "1.8.3", false}, {"1.10", "1.8.3", false},
		{"1.8", "1.8.3", true}, {"1.8.3", "1.8", false}, {"", "1", true}, {"x.1", "0.2", true},
	} {
		if got := LessThan(c.a, c.b); got != c.want {
			t.Errorf("%q < %q: %v", c.a, c.b, got)
		}
	}
}
