package build

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openshift/imagebuilder/dockerfile/parser"
	"go.podman.io/storage/pkg/regexp"
)

// console makes of what buildah and the commands print what BuildKit prints:
//
//	#2 [build 2/3] RUN make        => [build 2/3] RUN make                 1.2s
//	#2 0.312 cc -c main.c          => => # cc -c main.c
//	#2 DONE 1.2s
//
// on the left the plain form, on the right that for a terminal, where the step
// at work and its last lines are drawn anew while it lasts. It is where both
// outputs of every RUN go, so it also knows at which step a build failed.
type console struct {
	mu    sync.Mutex
	out   io.Writer
	plain bool
	live  *live    // nil where nothing can be drawn anew
	names []string // of the stages
	nodes [][]*parser.Node
	rest  []byte // of a line that has no end yet

	count int // steps begun
	now   *step
	tail  []string // what it printed last
}

// step is one instruction at work.
type step struct {
	label  string // [STAGE I/N] INSTRUCTION
	text   string
	node   *parser.Node // nil where it is none of the Dockerfile's
	begun  time.Time
	cached bool
}

// tailLines is how much of a failed step's output its error repeats.
const tailLines = 10

var (
	stepLine   = regexp.Delayed(`^(?:\[(\d+)/\d+\] )?STEP (\d+)(/\d+)?: (.*)$`)
	commitLine = regexp.Delayed(`^(?:\[(\d+)/(\d+)\] )?COMMIT( .*)?$`)
	hitLine    = "--> Using cache "
)

// newConsole writes to out, which, unless plain, is a terminal if columns are
// given.
func newConsole(out io.Writer, plain bool, columns func() int, nodes []*parser.Node) *console {
	if out == nil {
		out = io.Discard
	}
	c := &console{out: out, plain: plain}
	if !plain && columns != nil {
		c.live = newLive(out, columns)
		go c.live.tick(c.redraw)
	}
	for _, n := range nodes {
		if strings.EqualFold(n.Value, "from") {
			c.nodes = append(c.nodes, nil)
			c.names = append(c.names, stageName(n))
		}
		if i := len(c.nodes) - 1; i >= 0 {
			c.nodes[i] = append(c.nodes[i], n)
		}
	}
	return c
}

// stageName gives what stands behind AS.
func stageName(from *parser.Node) string {
	if as := from.Next; as != nil && as.Next != nil && as.Next.Next != nil && strings.EqualFold(as.Next.Value, "as") {
		return as.Next.Next.Value
	}
	return ""
}

// Write takes lines of buildah, each whole, and whatever the commands write.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, _, _ := bytes.Cut(p, []byte("\n")); len(c.rest) > 0 && isStep(string(first)) {
		c.flush() // of a command that ended without an end of line
	}
	in := append(c.rest, p...)
	c.rest = nil
	for {
		line, rest, ok := bytes.Cut(in, []byte("\n"))
		if !ok {
			c.rest = in
			return len(p), nil
		}
		c.line(strings.TrimSuffix(string(line), "\r"))
		in = rest
	}
}

func isStep(s string) bool {
	return stepLine.MatchString(s) || commitLine.MatchString(s) || strings.HasPrefix(s, hitLine)
}

func (c *console) flush() {
	if len(c.rest) > 0 {
		s := string(c.rest)
		c.rest = nil
		c.print(s)
	}
}

func (c *console) line(s string) {
	if m := stepLine.FindStringSubmatch(s); m != nil {
		c.close("DONE")
		c.begin(m[1], m[2], m[3], m[4])
		return
	}
	switch {
	case strings.HasPrefix(s, hitLine):
		if c.now != nil {
			c.now.cached = true
		}
	case commitLine.MatchString(s):
		c.close("DONE")
		if m := commitLine.FindStringSubmatch(s); m[1] == m[2] {
			c.export()
		}
	default:
		c.print(s)
	}
}

func (c *console) begin(stage, number, of, text string) {
	c.count++
	i, _ := strconv.Atoi(stage)
	i = max(i-1, 0)
	label := number + of
	if i < len(c.names) && c.names[i] != "" {
		label = c.names[i] + " " + label
	} else if len(c.nodes) > 1 {
		label = fmt.Sprintf("stage-%d %s", i, label)
	}
	c.now = &step{label: "[" + label + "] " + asWritten(text), text: text, begun: time.Now()}
	c.tail = nil
	if i < len(c.nodes) {
		n, _ := strconv.Atoi(number)
		c.now.node = findNode(c.nodes[i], n-1, text)
	}
	c.show()
}

// export is the last step, that of the image.
func (c *console) export() {
	c.count++
	c.now = &step{label: "exporting to image", text: "exporting to image", begun: time.Now()}
	c.tail = nil
	c.show()
}

// show tells that a step begins.
func (c *console) show() {
	if c.plain {
		fmt.Fprintf(c.out, "#%d %s\n", c.count, c.now.label)
	}
	c.draw()
}

// findNode looks for the instruction of a step: the nth of its stage, unless
// instructions of the base image (ONBUILD) came before.
func findNode(nodes []*parser.Node, n int, text string) *parser.Node {
	fits := func(node *parser.Node) bool {
		return node.Original != "" && strings.HasPrefix(text, node.Original)
	}
	if n == 0 && len(nodes) > 0 {
		return nodes[0]
	}
	if n < len(nodes) && fits(nodes[n]) {
		return nodes[n]
	}
	for _, node := range nodes {
		if fits(node) {
			return node
		}
	}
	return nil
}

func (c *console) print(s string) {
	c.tail = append(c.tail, s)
	if len(c.tail) > tailLines {
		c.tail = c.tail[1:]
	}
	switch {
	case c.plain && c.now != nil:
		fmt.Fprintf(c.out, "#%d %.3f %s\n", c.count, time.Since(c.now.begun).Seconds(), s)
	case c.plain:
		fmt.Fprintln(c.out, s)
	case c.live != nil && c.now != nil:
		c.draw()
	default:
		fmt.Fprintln(c.out, " => => # "+s)
	}
}

// draw shows the step at work and what it printed last.
func (c *console) draw() {
	if c.live == nil || c.now == nil {
		return
	}
	lines := []string{c.live.line(c.now.label, time.Since(c.now.begun))}
	for _, l := range c.tail[max(0, len(c.tail)-liveLines):] {
		lines = append(lines, " => => # "+l)
	}
	c.live.draw(lines)
}

func (c *console) redraw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draw()
}

// close ends the step that is at work.
func (c *console) close(how string) {
	c.flush()
	s := c.now
	if s == nil {
		return
	}
	c.now = nil
	if s.cached {
		how = "CACHED"
	}
	took := time.Since(s.begun)
	if c.plain {
		if how == "DONE" {
			how = fmt.Sprintf("DONE %.1fs", took.Seconds())
		}
		fmt.Fprintf(c.out, "#%d %s\n\n", c.count, how)
		return
	}
	label := s.label
	if kind, _, _ := strings.Cut(how, ":"); how != "DONE" {
		label = kind + " " + label
	}
	if c.live == nil {
		fmt.Fprintf(c.out, " => %-70s %5.1fs\n", label, took.Seconds())
		return
	}
	lines := []string{c.live.line(label, took)}
	if strings.HasPrefix(how, "ERROR") {
		for _, l := range c.tail {
			lines = append(lines, " => => # "+l)
		}
	}
	c.live.draw(lines)
	c.live.keep()
}

// end closes the last step and, of a build that failed, gives it back with the
// last lines that it printed.
func (c *console) end(err error) (failed *step, tail []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		defer c.live.stop()
	}
	if err == nil {
		c.close("DONE")
		return nil, nil
	}
	failed = c.now
	c.flush()
	c.close("ERROR: " + reason(err, c.tail))
	return failed, c.tail
}
