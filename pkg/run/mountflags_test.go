package run

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/balena-os/balena/pkg/store"
)

func bind(src, dst string, ro bool, opts ...string) store.Mount {
	return store.Mount{Type: "bind", Source: src, Target: dst, ReadOnly: ro, Options: opts}
}

func vol(name, dst string, ro bool, opts ...string) store.Mount {
	return store.Mount{Type: "volume", Source: name, Target: dst, ReadOnly: ro, Options: opts}
}

type mountCase struct {
	in   string
	want store.Mount
	err  string // a part of the message
}

func testMounts(t *testing.T, parse func(string) (store.Mount, error), cases []mountCase) {
	t.Helper()
	for _, tt := range cases {
		got, err := parse(tt.in)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.Is(err, ErrOptions) {
				t.Errorf("%q: got error %v, want one with %q", tt.in, err, tt.err)
			}
		case err != nil:
			t.Errorf("%q: %v", tt.in, err)
		case !reflect.DeepEqual(got, tt.want):
			t.Errorf("%q: got %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestParseVolume(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	testMounts(t, ParseVolume, []mountCase{
		{in: "/a:/b", want: bind("/a", "/b", false, "create")},
		{in: "/a/:/b/../c/:ro", want: bind("/a", "/c", true, "create")},
		{in: "./x:/b", want: bind(filepath.Join(wd, "x"), "/b", false, "create")},
		{in: ".:/b", want: bind(wd, "/b", false, "create")},
		{in: "/a:/b:rw,rshared,z", want: bind("/a", "/b", false, "create", "rw", "rshared", "z")},
		{in: "/a:/b:U,Z,nosuid", want: bind("/a", "/b", false, "create", "U", "Z", "nosuid")},
		{in: "/a:/b:rro", want: bind("/a", "/b", true, "create", "rro")},
		{in: "/a:/b:cached", want: bind("/a", "/b", false, "create")},
		{in: "data:/b", want: vol("data", "/b", false)},
		{in: "data:/b:nocopy,ro", want: vol("data", "/b", true, "nocopy")},
		{in: "/b", want: vol("", "/b", false)},
		{in: "", err: "must be absolute"},
		{in: ":", err: "empty section"},
		{in: "/a:", err: "must be absolute"},
		{in: ":/b", err: "empty section"},
		{in: "/a:/b:", err: "empty section"},
		{in: "/a:/b:ro:x", err: "want [SOURCE:]TARGET"},
		{in: "/a:b", err: "must be absolute"},
		{in: "/a:/", err: "destination can't be '/'"},
		{in: "a/b:/c", err: "includes invalid characters"},
		{in: "x:/c", err: "includes invalid characters"},
		{in: "/a:/b:bogus", err: "invalid mode: bogus"},
		{in: "/a:/b:ro,rw", err: "invalid mode: rw"},
		{in: "/a:/b:ro,ro", err: "invalid mode: ro"},
		{in: "/a:/b:nocopy", err: "nocopy is for volumes"},
		{in: "/a:/b:rshared,rslave", err: "invalid mode: rslave"},
	})
}

func TestParseMount(t *testing.T) {
	testMounts(t, ParseMount, []mountCase{
		{in: "type=bind,source=/a,target=/b", want: bind("/a", "/b", false)},
		{in: "type=bind,src=/a,dst=/b,readonly", want: bind("/a", "/b", true)},
		{in: "TYPE=bind,src=/a,destination=/b,ro=false", want: bind("/a", "/b", false)},
		{in: `type=bind,"src=/a,b",dst=/b`, want: bind("/a,b", "/b", false)},
		{in: "type=bind,src=/a,dst=/b,bind-propagation=rslave,bind-create-src", want: bind("/a", "/b", false, "rslave", "create")},
		{in: "type=bind,src=/a,dst=/b,bind-recursive=disabled", want: bind("/a", "/b", false, "bind")},
		{in: "type=bind,src=/a,dst=/b,bind-recursive=readonly,ro", want: bind("/a", "/b", true, "rro")},
		{in: "type=bind,src=/a,dst=/b,U,noexec", want: bind("/a", "/b", false, "U", "noexec")},
		{in: "target=/b", want: vol("", "/b", false)},
		{in: "type=volume,source=data,target=/b,volume-nocopy,volume-subpath=x/y", want: vol("data", "/b", false, "nocopy", "subpath=x/y")},
		{in: "type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=0700", want: store.Mount{Type: "tmpfs", Target: "/b", Options: []string{"size=1048576", "mode=700"}}},
		{in: "", err: "value is empty"},
		{in: "type=bind,target=/b", err: "source is required"},
		{in: "type=bind,source=/a", err: "target is required"},
		{in: "type=bind,source=/a,target=b", err: "must be absolute"},
		{in: "type=bind,source=/a,target=/b,volume-nocopy", err: "cannot mix 'volume-*' options with mount type 'bind'"},
		{in: "type=volume,target=/b,bind-propagation=shared", err: "cannot mix 'bind-*' options"},
		{in: "type=volume,target=/b,tmpfs-size=1m", err: "cannot mix 'tmpfs-*' options"},
		{in: "type=bind,source=/a,target=/b,bogus=1", err: "unknown option 'bogus' in 'bogus=1'"},
		{in: "type=bind,source=/a,target=/b,bogus", err: "invalid field 'bogus' must be a key=value pair"},
		{in: "type=bind,source=/a,target=/b,readonly=maybe", err: "invalid boolean value"},
		{in: "type=bind,source=,target=/b", err: "value is empty"},
		{in: "type=bind, source=/a,target=/b", err: "white space"},
		{in: "type=npipe,target=/b", err: "is not bind, volume or tmpfs"},
		{in: "type=tmpfs,source=/a,target=/b", err: "a tmpfs has no source"},
		{in: "type=volume,source=../x,target=/b", err: "is no volume name"},
		{in: "type=volume,source=xx,target=/b,volume-subpath=../y", err: "leads out of the volume"},
		{in: "type=tmpfs,target=/b,tmpfs-mode=9", err: "invalid value for tmpfs-mode"},
		{in: `type=bind,"src`, err: "not CSV"},
	})
}

func TestParseTmpfs(t *testing.T) {
	tmpfs := func(dst string, ro bool, opts ...string) store.Mount {
		return store.Mount{Type: "tmpfs", Target: dst, ReadOnly: ro, Options: opts}
	}
	testMounts(t, ParseTmpfs, []mountCase{
		{in: "/t", want: tmpfs("/t", false)},
		{in: "/t:rw,size=64k,mode=1770", want: tmpfs("/t", false, "rw", "size=64k", "mode=1770")},
		{in: "/t:ro,exec", want: tmpfs("/t", true, "exec")},
		{in: "t", err: "must be absolute"},
		{in: "/t:bogus", err: `unknown option "bogus"`},
		{in: "/t:size", err: "size needs a value"},
		{in: "/t:exec=1", err: "exec takes no value"},
	})
}

func TestParseEnvFile(t *testing.T) {
	lookup := func(name string) (string, bool) { return "ours", name == "HAVE" }
	for _, tt := range []struct {
		in   string
		want []string
		err  string
	}{
		{"A=1\n# comment\n\n  B=\"2\" \nC==\n", []string{"A=1", `B="2" `, "C=="}, ""},
		{"\xef\xbb\xbfA=1", []string{"A=1"}, ""},
		{"HAVE\nMISS\n", []string{"HAVE=ours"}, ""},
		{"A=x=y\r\n", []string{"A=x=y"}, ""},
		{"=1\n", nil, "no variable name on line '=1'"},
		{"A B=1\n", nil, "variable 'A B' contains whitespaces"},
		{"A\xff=1\n", nil, "invalid utf8 bytes at line 1"},
		{"A=\x00\n", nil, "NUL"},
	} {
		got, err := ParseEnvFile(strings.NewReader(tt.in), lookup)
		if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: got error %v, want %q", tt.in, err, tt.err)
		}
		if err == nil && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

// checkParsed holds for every mount that a parser accepts.
func checkParsed(t *testing.T, m store.Mount, err error) {
	if err != nil {
		if !errors.Is(err, ErrOptions) {
			t.Errorf("error %v is not ErrOptions", err)
		}
		return
	}
	if !filepath.IsAbs(m.Target) || m.Target == "/" || filepath.Clean(m.Target) != m.Target {
		t.Errorf("target %q", m.Target)
	}
	switch {
	case m.Type == "bind" && filepath.IsAbs(m.Source):
	case m.Type == "volume" && (m.Source == "" || volumeName.MatchString(m.Source)):
	case m.Type == "tmpfs" && m.Source == "":
	default:
		t.Errorf("type %q, source %q", m.Type, m.Source)
	}
	for _, o := range m.Options {
		if o == "" || strings.Contains(o, ",") && !strings.HasPrefix(o, subpathOpt) {
			t.Errorf("option %q", o)
		}
	}
}

func FuzzParseVolume(f *testing.F) {
	for _, s := range []string{"/a:/b:ro,z", "data:/b", ":::", "./:/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseVolume(s)
		checkParsed(t, m, err)
	})
}

func FuzzParseMount(f *testing.F) {
	for _, s := range []string{"type=bind,src=/a,dst=/b,ro", `"type=tmpfs",dst=/x,tmpfs-size=1g`, "dst=/v,volume-subpath=a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMount(s)
		checkParsed(t, m, err)
	})
}

func FuzzParseEnvFile(f *testing.F) {
	f.Add("A=1\nB\n#c\n =x")
	f.Fuzz(func(t *testing.T, s string) {
		vars, err := ParseEnvFile(strings.NewReader(s), func(string) (string, bool) { return "v", true })
		if err != nil {
			return
		}
		for _, v := range vars {
			if name, _, ok := strings.Cut(v, "="); !ok || name == "" || strings.ContainsAny(v, "\n\x00") {
				t.Errorf("variable %q", v)
			}
		}
	})
}
