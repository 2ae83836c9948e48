package build

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/openshift/imagebuilder"
	"go.podman.io/buildah/define"
)

func TestBases(t *testing.T) {
	for _, c := range []struct {
		file, target, from string
		args               map[string]string
		want               []base
		fails              bool
	}{
		{file: "FROM a", want: []base{{"a", ""}}},
		{file: "FROM scratch\nCOPY x /"},
		{file: "ARG V=1\nFROM a:$V", want: []base{{"a:1", ""}}},
		{file: "ARG V=1\nFROM a:$V", args: map[string]string{"V": "2"}, want: []base{{"a:2", ""}}},
		{file: "FROM --platform=linux/arm64 a", want: []base{{"a", "linux/arm64"}}},
		{file: "FROM --platform=$BUILDPLATFORM a AS x\nFROM x", want: []base{{"a", "linux/" + arch()}}},
		{file: "FROM a AS one\nFROM b AS two\nFROM c\nCOPY --from=one x /\nCOPY --from=d x /", want: []base{{"c", ""}, {"a", ""}, {"d", ""}}},
		{file: "FROM a AS one\nFROM b AS two\nFROM one", target: "two", want: []base{{"b", ""}}},
		{file: "FROM a\nFROM b\nRUN --mount=type=bind,from=0,target=/x --mount=from=e,target=/y ls", want: []base{{"b", ""}, {"a", ""}, {"e", ""}}},
		{file: "FROM a\nRUN x", from: "z", want: []base{{"z", ""}}},
		{file: "FROM named\nCOPY --from=dir x /", want: []base{{"image", ""}}},
		{file: "FROM a", target: "nosuch", fails: true},
		{file: "FROM", fails: true},
	} {
		b := &builder{o: Options{Target: c.target, From: c.from}}
		b.buildah.Args = c.args
		b.buildah.AdditionalBuildContexts = map[string]*define.AdditionalBuildContext{
			"named": {IsImage: true, Value: "image"}, "dir": {Value: "/x"},
		}
		got, err := b.bases([]byte(c.file))
		if (err != nil) != c.fails || !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, %v", c.file, got, err)
		}
	}
}

func arch() string { return (&builder{}).platformArgs()["BUILDARCH"] }

func TestVolumeKey(t *testing.T) {
	a := volumeKey([]string{"/a:/x", "/b:/y"})
	if volumeKey(nil) != "" || a != volumeKey([]string{"/b:/y", "/a:/x"}) || a == volumeKey([]string{"/a:/x"}) || a == volumeKey([]string{"/a:/x", "/b:/y:ro"}) {
		t.Error("the key does not stand for the set")
	}
}

func TestConsoleAndError(t *testing.T) {
	node, err := imagebuilder.ParseDockerfile(strings.NewReader("# x\nFROM a AS one\nFROM b\n\nRUN make \\\n  it\nRUN make it\n"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := newConsole(&out, true, nil, node.Children)
	for _, s := range []string{
		"[1/2] STEP 1/1: FROM a AS one\nprompt> ", "[1/2] COMMIT\n", "[2/2] STEP 1/3: FROM b\n",
		"[2/2] STEP 2/3: RUN make   it\n--> Using cache 0123\n", "[2/2] STEP 3/3: RUN make it\nout", "put\nlast",
	} {
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	failed, tail := c.end(errors.New("x"))
	for _, want := range []string{"#1 [one 1/1] FROM a AS one\n#1 0.0", " prompt> \n#1 DONE", "#3 [stage-1 2/3] RUN make   it\n#3 CACHED\n", " output\n", " last\n#4 ERROR: x\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
	if !slices.Equal(tail, []string{"output", "last"}) || failed == nil || failed.node == nil || failed.node.StartLine != 7 {
		t.Fatalf("got %v, %+v", tail, failed)
	}
	exit := exec.Command("sh", "-c", "exit 9").Run()
	if got := stepError(exit, "/c/Dockerfile", failed, tail).Error(); got != "Dockerfile:7: RUN make it: the command failed with exit code 9" {
		t.Errorf("got %s", got)
	}
	other := errors.New(`building at STEP "RUN x": it broke`)
	if got := stepError(other, "/c/Dockerfile", failed, tail); got.Error() != "Dockerfile:7: RUN make it: it broke" || !errors.Is(got, other) {
		t.Errorf("got %v", got)
	}
	got := stepError(exit, "/c/Dockerfile", failed, []string{"error running container: no such program"})
	var step *StepError
	if !errors.As(got, &step) || step.Code != 0 || !strings.Contains(got.Error(), "no such program") {
		t.Errorf("got %v", got)
	}
}

func TestFindFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(t.TempDir())
	b := &builder{}
	c := &buildContext{dir: dir}
	if err := b.findFiles(c, "", false); !errors.Is(err, ErrNoDockerfile) {
		t.Errorf("without one: %v", err)
	}
	for _, name := range []string{"Containerfile", "Dockerfile"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("FROM a"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.findFiles(c, "", false); err != nil || c.files[0] != path {
			t.Errorf("got %v, %v", c.files, err)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "up")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "up/passwd", "/etc/passwd"} {
		b.o.Files = []string{name}
		if err := b.findFiles(c, "", true); err == nil {
			t.Errorf("%s of a context from elsewhere: %v", name, c.files)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Format: "x"}, {Isolation: "x"}, {Pull: "x"}, {Network: "x"}, {Isolation: "chroot", Network: "none"}} {
		if err := o.Check(); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := (&Options{Tags: []string{"UPPER"}}).Check(); err == nil {
		t.Error("a bad name")
	}
	if err := (&Options{}).Check(); err != nil {
		t.Error(err)
	}
}
