package pull

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// State is how far a layer has come.
type State int

// States, in the order in which they come. A layer may begin again at Fetching.
const (
	Waiting   State = iota // for another pull that works on it
	Fetching               // and extracting
	Extracted              // waits for the layers below it
	Committed              // on stable storage
	Exists                 // was in the store, or was made from what is there

	Warning // Text says what went wrong and was mended; of no layer
	Saved   // at the end, if layers were made from a delta: Done bytes were fetched, Total would have been without, -1 if there was no other way
)

// Event is a step of one layer, of a delta, or a remark on the image.
type Event struct {
	Ref           string
	Layer         digest.Digest // of the blob
	Index, Layers int           // its place among the image's layers, from 0
	State         State
	Done, Total   int64 // bytes of the blob; Total is -1 if unknown
	Push          bool  // it goes out: Fetching is sending then, and Committed says that it is there

	From string // the image that a delta starts from; Layer is the delta's blob then
	Text string
}

// place finds a layer's index; -1 for what is none (the configuration).
func (d *destination) place(blob digest.Digest) (index, layers int) {
	for _, l := range d.plan.layers {
		if l.blob.Digest == blob {
			return l.index, len(d.plan.layers)
		}
	}
	return -1, len(d.plan.layers)
}

// NewProgress returns a function for Options.Progress that shows what happens:
// on a terminal one line a layer with a bar, bytes, rate and the time left;
// elsewhere one line when a layer begins and one when it is done. width is the
// terminal's, 0 if unknown. The returned done ends the display.
func NewProgress(w io.Writer, terminal bool, width int) (progress func(Event), done func()) {
	if width <= 0 {
		width = 80
	}
	p := &display{w: w, terminal: terminal, width: width, rows: map[string]*row{}}
	return p.event, p.end
}

// NewWarnings returns a function for Options.Progress that shows warnings only.
func NewWarnings(w io.Writer) func(Event) {
	var mu sync.Mutex
	return func(e Event) {
		if e.State == Warning {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintln(w, e.line())
		}
	}
}

// display draws with as little as every terminal can do: cursor up, clear line.
type display struct {
	w        io.Writer
	terminal bool
	width    int

	mu    sync.Mutex
	rows  map[string]*row
	order []*row
	drawn int // lines on the screen
	last  time.Time
}

type row struct {
	Event
	since  time.Time // when Fetching began
	states [Exists + 1]bool
}

// name is what a row is about.
func (r *row) name() string {
	if r.From != "" {
		return "delta from " + r.From
	}
	return short(r.Layer)
}

const redraw = 100 * time.Millisecond

func (p *display) event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.State == Warning || e.State == Saved {
		p.say(e)
		return
	}
	if e.Index < 0 && e.From == "" {
		return
	}
	key := e.Ref + " " + e.Layer.String()
	r := p.rows[key]
	if r == nil {
		r = &row{Event: e}
		p.rows[key] = r
		p.order = append(p.order, r)
	}
	changed := r.State != e.State || !r.states[e.State]
	if e.Total < 0 {
		e.Total = r.Total
	}
	r.Event = e
	if changed && e.State == Fetching {
		r.since = time.Now()
	}
	first := !r.states[e.State]
	r.states[e.State] = true
	if !p.terminal {
		if first {
			p.line(r)
		}
		return
	}
	if changed || time.Since(p.last) >= redraw {
		p.draw()
	}
}

func short(d digest.Digest) string {
	s := d.Encoded()
	return s[:min(12, len(s))]
}

// line is what a log gets: beginnings and ends.
func (p *display) line(r *row) {
	switch r.State {
	case Fetching, Committed, Exists:
		fmt.Fprintf(p.w, "%s: %s\n", r.name(), r.word())
	}
}

// word says in docker's words what state a layer is in.
func (r *row) word() string {
	words := [...]string{Waiting: "Waiting", Fetching: "Pulling", Extracted: "Extracted", Committed: "Pull complete", Exists: "Already exists"}
	if r.Push {
		words = [...]string{Waiting: "Waiting", Fetching: "Pushing", Extracted: "", Committed: "Pushed", Exists: "Layer already exists"}
	}
	return words[r.State]
}

// say writes a line that stays, above the rows.
func (p *display) say(e Event) {
	if p.drawn > 0 {
		fmt.Fprintf(p.w, "\x1b[%dA\x1b[J", p.drawn)
		p.drawn = 0
	}
	fmt.Fprintln(p.w, e.line())
	if p.terminal && len(p.order) > 0 {
		p.draw()
	}
}

// line is a Warning or Saved in words.
func (e Event) line() string {
	if e.State == Warning {
		return "warning: " + e.Text
	}
	if e.Total < 0 {
		return fmt.Sprintf("delta from %s: fetched %s", e.From, size(e.Done))
	}
	return fmt.Sprintf("delta from %s: fetched %s instead of %s", e.From, size(e.Done), size(e.Total))
}

func (p *display) draw() {
	p.last = time.Now()
	if p.drawn > 0 {
		fmt.Fprintf(p.w, "\x1b[%dA", p.drawn)
	}
	for _, r := range p.order {
		text := r.text(p.width - 1)
		fmt.Fprintf(p.w, "\r%s\x1b[K\n", text[:min(len(text), p.width-1)])
	}
	p.drawn = len(p.order)
}

func (r *row) text(width int) string {
	id := r.name()
	switch r.State {
	case Waiting:
		return id + ": " + r.word()
	case Extracted:
		return fmt.Sprintf("%s: Extracted   %s", id, size(r.Total))
	case Committed:
		return fmt.Sprintf("%s: %s  %s", id, r.word(), size(r.Total))
	case Exists:
		return id + ": " + r.word()
	}
	numbers := size(r.Done)
	if r.Total > 0 {
		numbers += "/" + size(r.Total)
	}
	if t := time.Since(r.since).Seconds(); t > 0.5 && r.Done > 0 {
		rate := float64(r.Done) / t
		numbers += fmt.Sprintf("  %s/s", size(int64(rate)))
		if r.Total > r.Done {
			left := time.Duration(float64(r.Total-r.Done)/rate) * time.Second
			numbers += fmt.Sprintf("  %s left", left)
		}
	}
	room := width - len(id) - len(": Pulling [] ") - len(numbers) - 1
	if r.Total <= 0 || room < 10 {
		return fmt.Sprintf("%s: %s  %s", id, r.word(), numbers)
	}
	room = min(room, 40)
	full := int(int64(room) * r.Done / max(1, r.Total))
	bar := make([]byte, room)
	for i := range bar {
		switch {
		case i < full:
			bar[i] = '='
		case i == full:
			bar[i] = '>'
		default:
			bar[i] = ' '
		}
	}
	return fmt.Sprintf("%s: %s [%s] %s", id, r.word(), bar, numbers)
}

func (p *display) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && len(p.order) > 0 {
		p.draw()
	}
}
