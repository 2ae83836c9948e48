package digest

import (
	_ "crypto/sha256"
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// As the image specification has the grammar of a digest.
var grammar = regexp.MustCompile(`\A[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+\z`)

func TestValidate(t *testing.T) {
	sum := strings.Repeat("0123456789abcdef", 4)
	for s, want := range map[string]error{
		"sha256:" + sum:                          nil,
		"":                                       ErrDigestInvalidFormat,
		":":                                      ErrDigestInvalidFormat,
		"sha256":                                 ErrDigestInvalidFormat,
		"sha256:":                                ErrDigestInvalidFormat,
		":" + sum:                                ErrDigestInvalidFormat,
		"sha256:" + sum[1:]:                      ErrDigestInvalidLength,
		"sha256:" + sum + "0":                    ErrDigestInvalidLength,
		"sha256:" + strings.ToUpper(sum):         ErrDigestInvalidFormat,
		"sha256:" + sum[:30] + "/../" + sum[:30]: ErrDigestInvalidFormat,
		"sha256:" + sum[:63] + "\n":              ErrDigestInvalidFormat,
		"md5:d41d8cd98f00b204e9800998ecf8427e":   ErrDigestUnsupported,
		"multihash+base58:QmRZxt2b1FVZPNqd8hsiykD": ErrDigestUnsupported,
		"multi..hash:abc":                          ErrDigestInvalidFormat,
		"-md5:abc":                                 ErrDigestInvalidFormat,
		"md5-:abc":                                 ErrDigestInvalidFormat,
		"md5:../../etc/passwd":                     ErrDigestInvalidFormat,
		"md5:a b":                                  ErrDigestInvalidFormat,
		"md5:abc\n":                                ErrDigestInvalidFormat,
		"md5:abc:def":                              ErrDigestInvalidFormat,
	} {
		d, err := Parse(s)
		if !errors.Is(err, want) || string(d) != s {
			t.Errorf("Parse(%q) = %q, %v; want %v", s, d, err, want)
		}
	}
}

// Random texts are judged as by the grammar.
func TestValidateRandom(t *testing.T) {
	const chars = "aZ09.+_-=:/ \n"
	r := rand.New(rand.NewPCG(1, 2))
	valid := 0
	for range 300_000 {
		b := make([]byte, 1+r.IntN(9))
		for i := range b {
			b[i] = chars[r.IntN(len(chars))]
		}
		want := ErrDigestInvalidFormat
		if grammar.Match(b) {
			want = ErrDigestUnsupported
			valid++
		}
		if err := Digest(b).Validate(); !errors.Is(err, want) {
			t.Fatalf("%q: %v, want %v", b, err, want)
		}
	}
	if valid < 1000 {
		t.Errorf("only %d of the texts were digests", valid)
	}
}

func TestSums(t *testing.T) {
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	d := FromString("")
	if d != empty || d.Algorithm() != SHA256 || d.Encoded() != empty[7:] || d.Hex() != empty[7:] || SHA256.Size() != 32 {
		t.Errorf("the digest of nothing is %q", d)
	}
	read, err := FromReader(strings.NewReader("text"))
	if err != nil || read != FromBytes([]byte("text")) {
		t.Errorf("FromReader: %q, %v", read, err)
	}
	made := Canonical.Digester()
	made.Hash().Write([]byte("text"))
	v := read.Verifier()
	v.Write([]byte("te"))
	if v.Verified() {
		t.Error("half of the text has the digest")
	}
	v.Write([]byte("xt"))
	if !v.Verified() || made.Digest() != read {
		t.Errorf("the text has digest %q, not %q", made.Digest(), read)
	}
}

func TestPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"no colon":  func() { Digest("abc").Encoded() },
		"algorithm": func() { Digest("md5:abc").Verifier() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestFlag(t *testing.T) {
	var a Algorithm
	if err := a.Set(""); err != nil || a != Canonical {
		t.Errorf("the default is %q, %v", a, err)
	}
	if err := a.Set("md5"); !errors.Is(err, ErrDigestUnsupported) {
		t.Errorf("md5: %v", err)
	}
}
