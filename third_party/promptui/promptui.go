// Package promptui takes the place of github.com/manifoldco/promptui, of which
// containers/image uses one thing: Select, to ask which registry a short image
// name means. The original draws its list with text/template, whose reflective
// method lookups make the linker keep every exported method of every type in
// the binary.
//
// Lost: the list that is moved through with the arrow keys. Here it is
// numbered, and the answer is a number typed on the terminal.
package promptui

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// ErrInterrupt and ErrEOF are what Run returns when no choice was made.
var (
	ErrInterrupt = errors.New("interrupted")
	ErrEOF       = errors.New("end of input before a choice was made")
)

// Select asks for one of Items.
type Select struct {
	Label        any
	Items        any // a []string
	HideSelected bool
	HideHelp     bool

	// Stdin and Stdout default to the process's own, the prompt going to
	// stderr so that a command's result stays alone on stdout.
	Stdin  io.Reader
	Stdout io.Writer
}

// Run prints the items and reads a number until one of them is named. It
// returns the index and the item, or ErrEOF when the input ends.
func (s *Select) Run() (int, string, error) {
	items, ok := s.Items.([]string)
	if !ok || len(items) == 0 {
		return 0, "", errors.New("nothing to choose from")
	}
	in, out := s.Stdin, s.Stdout
	if in == nil {
		in = os.Stdin
	}
	if out == nil {
		out = os.Stderr
	}
	fmt.Fprintln(out, s.Label)
	for i, item := range items {
		fmt.Fprintf(out, "%3d) %s\n", i+1, item)
	}
	r := bufio.NewReader(in)
	for {
		fmt.Fprintf(out, "number (1-%d): ", len(items))
		line, err := r.ReadString('\n')
		n, convErr := strconv.Atoi(strings.TrimSpace(line))
		if convErr == nil && n >= 1 && n <= len(items) {
			return n - 1, items[n-1], nil
		}
		if err == io.EOF {
			fmt.Fprintln(out)
			return 0, "", ErrEOF
		}
		if err != nil {
			return 0, "", err
		}
	}
}
