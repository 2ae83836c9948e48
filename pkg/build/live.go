package build

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	liveLines = 6                      // of a step's output, while it is at work
	liveEvery = 200 * time.Millisecond // how often the time of a step is drawn anew
)

// live is the lower end of a terminal, which is drawn anew while a step lasts.
type live struct {
	out     io.Writer
	columns func() int
	drawn   int // lines that the next drawing replaces
	quit    chan struct{}
}

func newLive(out io.Writer, columns func() int) *live {
	return &live{out: out, columns: columns, quit: make(chan struct{})}
}

func (l *live) tick(draw func()) {
	t := time.NewTicker(liveEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			draw()
		case <-l.quit:
			return
		}
	}
}

func (l *live) stop() { close(l.quit) }

// width is that of a line; 0 where the terminal does not say.
func (l *live) width() int { return max(0, l.columns()-1) }

// line has a step on the left and its time on the right.
func (l *live) line(label string, took time.Duration) string {
	at := fmt.Sprintf(" %.1fs", took.Seconds())
	room := l.width() - len(at) - len(" => ")
	if room < 10 {
		room = 70
	}
	label = clip(label, room)
	return " => " + label + strings.Repeat(" ", room-utf8.RuneCountInString(label)) + at
}

// draw puts lines in the place of those drawn before.
func (l *live) draw(lines []string) {
	var b strings.Builder
	if l.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r\x1b[J", l.drawn)
	}
	for _, s := range lines {
		if w := l.width(); w > 0 {
			s = clip(s, w)
		}
		b.WriteString(s + "\n")
	}
	_, _ = io.WriteString(l.out, b.String())
	l.drawn = len(lines)
}

// keep lets the lines stay where they are.
func (l *live) keep() { l.drawn = 0 }

// clip cuts a line to what fits; control characters of a command's output would
// move the cursor.
func clip(s string, n int) string {
	var b strings.Builder
	for _, r := range s {
		if n == 0 {
			break
		}
		switch {
		case r == '\t' || r == '\n':
			r = ' '
		case r < ' ' || r == 0x7f:
			continue
		}
		b.WriteRune(r)
		n--
	}
	return b.String()
}
