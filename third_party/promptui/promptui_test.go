package promptui

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestSelect(t *testing.T) {
	for in, want := range map[string]string{"2\n": "b", "0\n9\nx\n\n 1 \n": "a", "1": "a", "": "", "3\n": "", "x": ""} {
		s := Select{Label: "Which?", Items: []string{"a", "b"}, Stdin: strings.NewReader(in), Stdout: io.Discard}
		_, got, err := s.Run()
		if got != want || (want == "") != errors.Is(err, ErrEOF) {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
}
