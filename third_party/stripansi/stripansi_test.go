package stripansi

import "testing"

func TestStrip(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "",
		"plain … text":                        "plain … text",
		"\x1b[1;31mred\x1b[0m and \x1b[Kgone": "red and gone",
		"\u009b32mgreen\u009b0m":              "green",
		"\x1b]0;title\x07after":               "after",
		"\x1b]0;title\x1b\\after":             "after",
		"a\x1b7b\x1b8c":                       "abc",
		"cut\x1b":                             "cut",
		"cut\x1b[1;":                          "cut",
		"\x1b[1é":                             "é",
		"\x1bé":                               "é",
	} {
		if got := Strip(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
