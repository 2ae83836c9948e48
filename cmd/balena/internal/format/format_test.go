package format

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"text/template"
)

type inner struct {
	HostPort string
	N        int
}

type base struct{ Embedded string }

type record struct {
	base
	ID      string `json:"Id"`
	Name    string
	Size    int64
	On      bool
	List    []string
	Map     map[string]string
	Ports   map[string][]inner
	Sub     *inner
	NilSub  *inner
	Any     any
	Label   func(string) string `json:"-"`
	private string
}

func sample() *record {
	return &record{
		base: base{"emb"}, ID: "0123456789abcdef", Name: "/name <x>", Size: 1234567, On: true,
		List: []string{"a", "b", "c"}, Map: map[string]string{"k": "v", "a.b": "w"},
		Ports: map[string][]inner{"80/tcp": {{"8080", 1}}, "90/udp": nil}, Sub: &inner{"s", 7},
		Any:     map[string]any{"x": []any{1.5, "two"}},
		private: "p",
	}
}

var same = []string{
	"", "plain", "{{.Name}}", "{{ .Name }}|{{.Size}}", "{{.Sub.HostPort}}", "{{.Embedded}}",
	"{{index .List 1}}", `{{index .Map "a.b"}}`, "{{len .List}}", "{{slice .ID 0 4}}", "{{slice .List 1}}",
	"{{range .List}}[{{.}}]{{end}}", "{{range $i, $e := .List}}{{$i}}={{$e}} {{end}}",
	"{{range $k, $v := .Map}}{{$k}}:{{$v}},{{end}}", "{{range .Map}}{{.}}{{end}}",
	"{{range $p, $c := .Ports}}{{$p}}->{{if $c}}{{(index $c 0).HostPort}}{{else}}none{{end}} {{end}}",
	"{{if .On}}yes{{else}}no{{end}}", "{{if not .On}}yes{{else if eq .Size 1234567}}size{{else}}no{{end}}",
	"{{with .Sub}}{{.N}}{{end}}", "{{with .NilSub}}x{{else}}nil{{end}}", "{{with $x := .Name}}{{$x}}{{end}}",
	"{{$x := .Name}}{{$x}}{{$.Size}}", "{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}",
	"a {{- .Name -}} b", "a{{/* comment */}}b", "a {{- /* c */ -}} b", `{{"quoted\n"}}`, "{{`raw`}}", "{{3}}{{-4}}{{1.5}}",
	`{{printf "%s-%d" .Name .Size}}`, `{{print .Name 1 2}}`, "{{println}}", `{{println .Name}}`,
	"{{and .On .Name}}", "{{or .NilSub .Name}}", "{{and .NilSub .Bogus.X}}x", `{{eq .Name "a" "/name <x>"}}`,
	"{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 1 2}}{{ne 1 2}}", "{{.List}}", "{{.Map}}", "{{.Sub}}", "{{.On}}",
	"{{.Name | printf \"%s!\"}}", "{{(printf \"%d\" .Size) | len}}", "{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
	"{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "{{range .NilSub}}{{else}}empty{{end}}",
	"{{(index .Ports \"80/tcp\" 0).N}}", "{{.Any.x}}", "{{index .Any \"x\" 1}}", "{{.Map.k}}{{.Map.nope}}", "{{.Any.nope}}",
	"{{'a'}}", "{{true}}", "{{range $x := .List}}{{$x}}{{$.Name}}{{end}}", "{{not .NilSub}}", "}} {{1}}",
}

// Whatever text/template makes of a template, so do we.
func TestSameAsTextTemplate(t *testing.T) {
	for _, text := range same {
		if text == "{{and .NilSub .Bogus.X}}x" || strings.Contains(text, "range .NilSub") {
			continue // text/template complains where we shrug
		}
		var want, got bytes.Buffer
		if err := template.Must(template.New("").Parse(text)).Execute(&want, sample()); err != nil {
			t.Errorf("%s: text/template: %v", text, err)
			continue
		}
		tmpl, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := tmpl.Execute(&got, sample()); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got.String() != want.String() {
			t.Errorf("%s: got %q, want %q", text, &got, &want)
		}
	}
}

func TestDockerFunctions(t *testing.T) {
	r := sample()
	r.Label = func(k string) string { return "label-" + k }
	for in, want := range map[string]string{
		"{{.Id}}":                   "0123456789abcdef", // by its JSON name
		"{{.ID}}":                   "0123456789abcdef",
		"{{json .Name}}":            `"/name <x>"`,
		"{{json .Map}}":             `{"a.b":"w","k":"v"}`,
		"{{json .List}}":            `["a","b","c"]`,
		"{{.List | json}}":          `["a","b","c"]`,
		"{{upper .Name}}":           "/NAME <X>",
		"{{lower \"ABC\"}}":         "abc",
		"{{title \"one two\"}}":     "One Two",
		"{{join .List \", \"}}":     "a, b, c",
		"{{split \"a/b\" \"/\"}}":   "[a b]",
		"{{truncate .ID 4}}":        "0123",
		"{{truncate .ID 99}}":       "0123456789abcdef",
		"{{pad \"x\" 1 2}}|":        " x  |",
		"{{.Label \"k\"}}":          "label-k",
		`a\tb\n`:                    "a\tb\n",
		`{{.Map.nope}}`:             "<no value>",
		"{{json .NilSub}}":          "null",
		"{{range .NilSub}}x{{end}}": "",
		"{{.Sub.HostPort | upper}}": "S",
	} {
		var got bytes.Buffer
		tmpl, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if err := tmpl.Execute(&got, r); err != nil || got.String() != want {
			t.Errorf("%s: got %q, %v; want %q", in, &got, err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		"{{.Nope}}":                              "can't evaluate field Nope",
		"{{.private}}":                           "can't evaluate field private",
		"{{.Name.X}}":                            "can't evaluate field X",
		"{{nope .}}":                             `function "nope" not defined`,
		"{{.Name":                                "unclosed action",
		"{{}}":                                   "missing value",
		"{{if .On}}":                             "{{if}} without {{end}}",
		"{{end}}":                                "unexpected {{end}}",
		"{{else}}":                               "unexpected {{else}}",
		`{{"x}}`:                                 "unterminated quoted string",
		"{{index .List 9}}":                      "index out of range",
		"{{index .List \"x\"}}":                  "not an integer",
		"{{len 3}}":                              "no length",
		"{{$x}}":                                 "undefined variable $x",
		"{{range 1.5}}{{end}}":                   "range can't iterate",
		"{{break}}":                              "outside of {{range}}",
		"{{template \"x\"}}":                     "not supported",
		"{{(1}}":                                 "unclosed left paren",
		"{{1 | 2}}":                              "cannot stand behind",
		"{{.Name .List}}":                        "takes no argument",
		"{{json}}":                               "wrong number of arguments",
		"{{/* x}}":                               "unclosed comment",
		"{{eq .Name 1}}":                         "incompatible types",
		strings.Repeat("{{if 1}}", 500):          "nested too deeply",
		"{{" + strings.Repeat("(", 5000) + "1}}": "nested too deeply",
	} {
		tmpl, err := Parse(in)
		if err == nil {
			err = tmpl.Execute(io.Discard, sample())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: got error %v, want %q", in, err, want)
		}
	}
}

func TestList(t *testing.T) {
	type row struct{ ID, Names, CreatedSince string }
	rows := []any{row{"1", "one", "now"}, row{"22", "two", "a long time ago"}}
	l := List{Default: `table {{.ID}}\t{{.Names}}`, Headers: map[string]string{"ID": "CONTAINER ID"}}
	for in, want := range map[string]string{
		"":                                    "CONTAINER ID   NAMES\n1              one\n22             two\n",
		`table {{.Names}}\t{{.CreatedSince}}`: "NAMES     CREATED SINCE\none       now\ntwo       a long time ago\n",
		`table {{json .ID}}`:                  "CONTAINER ID\n\"1\"\n\"22\"\n",
		"{{.ID}}":                             "1\n22\n",
		`{{.ID}}\t{{.Names}}`:                 "1\tone\n22\ttwo\n",
		"json":                                "{\"ID\":\"1\",\"Names\":\"one\",\"CreatedSince\":\"now\"}\n{\"ID\":\"22\",\"Names\":\"two\",\"CreatedSince\":\"a long time ago\"}\n",
		"{{json .}}":                          "{\"ID\":\"1\",\"Names\":\"one\",\"CreatedSince\":\"now\"}\n{\"ID\":\"22\",\"Names\":\"two\",\"CreatedSince\":\"a long time ago\"}\n",
		"tablecloth":                          "tablecloth\ntablecloth\n",
	} {
		var got bytes.Buffer
		if err := l.Print(&got, in, rows); err != nil || got.String() != want {
			t.Errorf("%q: got %q, %v\nwant %q", in, &got, err, want)
		}
	}
	var got bytes.Buffer
	l.NoTitle = true
	if err := l.Print(&got, "", rows[:1]); err != nil || got.String() != "1         one\n" {
		t.Errorf("without titles: %q, %v", &got, err)
	}
	got.Reset()
	if err := Inspect(&got, "", nil); err != nil || got.String() != "[]\n" {
		t.Errorf("Inspect of nothing: %q, %v", &got, err)
	}
	got.Reset()
	if err := Inspect(&got, "", rows[:1]); err != nil || !json.Valid(got.Bytes()) {
		t.Errorf("Inspect: %q, %v", &got, err)
	}
}

// A user's template never brings the process down, whatever it says.
func FuzzTemplate(f *testing.F) {
	for _, s := range same {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tmpl, err := Parse(text)
		if err != nil {
			return
		}
		r := sample()
		r.Label = strings.ToUpper
		_ = tmpl.Execute(&limited{n: 1 << 20}, r)
		_ = tmpl.titles(&limited{n: 1 << 20}, nil)
	})
}

type limited struct{ n int }

func (l *limited) Write(b []byte) (int, error) {
	if l.n -= len(b); l.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}
