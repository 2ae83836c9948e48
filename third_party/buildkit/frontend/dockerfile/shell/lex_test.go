package shell

import (
	"slices"
	"testing"
)

type env map[string]string

func (e env) Get(k string) (string, bool) { v, ok := e[k]; return v, ok }
func (e env) Keys() []string              { return nil }

// The results are the original's, which was compared with this over 300,000
// random texts. Words differ where a word goes on behind ${NAME:-…}: the
// original forgets its beginning.
func TestProcess(t *testing.T) {
	e := env{"A": "abcab*b", "E": ""}
	for _, c := range []struct {
		in         string
		raw, unset bool
		want       string
		words      []string
		fails      bool
	}{
		{in: `$A ${A} "$A" '$A' \$A`, want: `abcab*b abcab*b abcab*b $A $A`, words: []string{"abcab*b", "abcab*b", "abcab*b", "$A", "$A"}},
		{in: `"a b" 'c "d'`, want: `a b c "d`, words: []string{"a b", `c "d`}},
		{in: `"a b" 'c' \d`, raw: true, want: `"a b" 'c' \d`, words: []string{`"a b"`, `'c'`, `\d`}},
		{in: `${E:-d}${E-d}${U:-w}${U-w}`, want: "dww", words: []string{"dww"}},
		{in: `${A:+y}${E:+y}${E+y}${U+y}`, want: "yy", words: []string{"yy"}},
		{in: `${A#a}|${A##*b}|${A%b}|${A%%b*}`, want: "bcab*b||abcab*|a", words: []string{"bcab*b||abcab*|a"}},
		{in: `${A/b/x}|${A//b/x}|${A/\*/y}`, want: "axcab*b|axcax*x|abcabyb", words: []string{"axcab*b|axcax*x|abcabyb"}},
		{in: `$U ${U} ${U:-x}`, unset: true, want: "$U ${U} ${U:-x}", words: []string{"$U", "${U}", "${U:-x}"}},
		{in: `<< EOF <<X`, want: "<< EOF <<X", words: []string{"<< EOF", "<<X"}},
		{in: `$`, want: "$", words: []string{"$"}},
		{in: `"a\nb\"c"`, want: `a\nb"c`, words: []string{`a\nb"c`}},
		{in: `'open`, fails: true},
		{in: `"open`, fails: true},
		{in: `${A`, fails: true},
		{in: `${}`, fails: true},
		{in: `${E:?gone}`, fails: true},
		{in: `${A:#x}`, fails: true},
	} {
		l := NewLex('\\')
		l.RawQuotes, l.RawEscapes, l.SkipUnsetEnv = c.raw, c.raw, c.unset
		got, _, err := l.ProcessWord(c.in, e)
		if (err != nil) != c.fails || got != c.want {
			t.Errorf("%s: got %q, %v", c.in, got, err)
		}
		words, err := l.ProcessWords(c.in, e)
		if (err != nil) != c.fails || !slices.Equal(words, c.words) {
			t.Errorf("%s: got words %q, %v", c.in, words, err)
		}
	}
}
