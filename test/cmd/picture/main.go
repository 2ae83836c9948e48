// Picture draws the documents' pictures: picture FILE.pic prints an SVG. It fails
// where a text does not fit, or where texts, boxes and arrows lie over each other.
//
//	size WIDTH HEIGHT | what the picture is
//	box NAME X Y WIDTH HEIGHT CLASS | title | line ...     CLASS: program, data, container, plain
//	text X Y CLASS | line ...                              CLASS: head, note
//	arrow NAME SIDE[+OFFSET] [X,Y ...] NAME SIDE[+OFFSET] [dashed]   SIDE: left right top bottom
//
// An arrow begins and ends in the middle of a side, or OFFSET beside it, and goes
// through the corners named. A line that begins with # says something to the reader.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"html"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: picture FILE.pic")
		os.Exit(2)
	}
	if err := draw(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func draw(w io.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	p := picture{boxes: map[string]rect{}}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if err := p.line(lines.Text()); err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
	if err := errors.Join(lines.Err(), p.check()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	_, err = fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" font-family="'DejaVu Sans',Verdana,sans-serif" font-size="13" role="img" aria-label="%[3]s">
<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"><path d="M0 0L8 4L0 8z" fill="#456"/></marker></defs>
<style>rect{stroke:#456}.program{fill:#eef3f8}.data{fill:#f7f1e3}.container{fill:#e7f3e7}.plain{fill:#fff}.arrow{fill:none;stroke:#456;marker-end:url(#a)}.dashed{stroke-dasharray:4 3}text{fill:#111}.note{font-size:11px;fill:#444}.head{font-weight:bold}</style>
<rect width="%[1]d" height="%[2]d" style="fill:#fff;stroke:none"/>
%[4]s</svg>
`, p.size.w, p.size.h, html.EscapeString(p.title), p.out.String())
	return err
}

type rect struct{ x, y, w, h int }

func (r rect) meets(o rect) bool {
	return r.x < o.x+o.w && o.x < r.x+r.w && r.y < o.y+o.h && o.y < r.y+r.h
}

func (r rect) holds(o rect) bool {
	return o.x >= r.x && o.y >= r.y && o.x+o.w <= r.x+r.w && o.y+o.h <= r.y+r.h
}

// piece is something drawn, and where; in is the box that it belongs in.
type piece struct {
	rect
	what, in string
	ends     [2]string // of an arrow: the boxes that it may touch
}

type picture struct {
	size   rect
	title  string
	boxes  map[string]rect
	pieces []piece
	out    strings.Builder
}

func (p *picture) line(line string) error {
	head, rest, _ := strings.Cut(line, "|")
	words := strings.Fields(head)
	if len(words) == 0 || strings.HasPrefix(line, "#") {
		return nil
	}
	var texts []string
	for t := range strings.SplitSeq(rest, "|") {
		texts = append(texts, strings.TrimSpace(t))
	}
	switch {
	case words[0] == "size" && len(words) == 3:
		n, err := numbers(words[1:])
		if err != nil {
			return err
		}
		p.size, p.title = rect{0, 0, n[0], n[1]}, texts[0]
	case words[0] == "box" && len(words) == 7:
		n, err := numbers(words[2:6])
		if err != nil {
			return err
		}
		return p.box(words[1], rect{n[0], n[1], n[2], n[3]}, words[6], texts)
	case words[0] == "text" && len(words) == 4:
		n, err := numbers(words[1:3])
		if err != nil {
			return err
		}
		for i, t := range texts {
			p.text("", n[0], n[1]+16*i, words[3], t)
		}
	case words[0] == "arrow":
		return p.arrow(words[1:])
	default:
		return fmt.Errorf("what is %q?", line)
	}
	return nil
}

func (p *picture) box(name string, r rect, class string, texts []string) error {
	if _, found := p.boxes[name]; found {
		return fmt.Errorf("two boxes %s", name)
	}
	p.boxes[name] = r
	p.pieces = append(p.pieces, piece{rect: r, what: "box " + name})
	fmt.Fprintf(&p.out, `<rect x="%d" y="%d" width="%d" height="%d" rx="6" class="%s"/>`+"\n", r.x, r.y, r.w, r.h, class)
	for i, t := range texts {
		style, y := "note", r.y+25+18*i
		if i == 0 {
			style, y = "head", r.y+23
		}
		p.text(name, r.x+14, y, style, t)
	}
	return nil
}

// text draws a line with its baseline at y. The widths are those of DejaVu Sans,
// which is wider than most.
func (p *picture) text(in string, x, y int, class, t string) {
	tenths := 82
	if class == "note" {
		tenths = 62
	}
	w := utf8.RuneCountInString(t) * tenths / 10
	p.pieces = append(p.pieces, piece{rect: rect{x, y - 11, w, 14}, what: strconv.Quote(t), in: in})
	fmt.Fprintf(&p.out, `<text x="%d" y="%d" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(t))
}

func (p *picture) arrow(words []string) error {
	class := "arrow"
	if len(words) > 0 && words[len(words)-1] == "dashed" {
		class, words = "arrow dashed", words[:len(words)-1]
	}
	if len(words) < 4 {
		return errors.New("an arrow goes from a side of a box to a side of a box")
	}
	from, err := p.side(words[0], words[1])
	if err != nil {
		return err
	}
	points := [][2]int{from}
	for _, corner := range words[2 : len(words)-2] {
		n, err := numbers(strings.Split(corner, ","))
		if err != nil || len(n) != 2 {
			return fmt.Errorf("a corner is X,Y: %q", corner)
		}
		points = append(points, [2]int{n[0], n[1]})
	}
	to, err := p.side(words[len(words)-2], words[len(words)-1])
	if err != nil {
		return err
	}
	points = append(points, to)
	ends := [2]string{words[0], words[len(words)-2]}
	var d strings.Builder
	for i, at := range points {
		if i == 0 {
			fmt.Fprintf(&d, "M%d %d", at[0], at[1])
			continue
		}
		before := points[i-1]
		if before[0] != at[0] && before[1] != at[1] {
			return fmt.Errorf("%v to %v is neither level nor upright", before, at)
		}
		fmt.Fprintf(&d, "L%d %d", at[0], at[1])
		r := rect{min(before[0], at[0]), min(before[1], at[1]), max(1, abs(before[0]-at[0])), max(1, abs(before[1]-at[1]))}
		p.pieces = append(p.pieces, piece{rect: r, what: fmt.Sprintf("arrow %s to %s", ends[0], ends[1]), ends: ends})
	}
	fmt.Fprintf(&p.out, `<path d="%s" class="%s"/>`+"\n", d.String(), class)
	return nil
}

// side is the point of a box's side, as "left" or "top+20".
func (p *picture) side(name, side string) ([2]int, error) {
	r, found := p.boxes[name]
	if !found {
		return [2]int{}, fmt.Errorf("no box %s", name)
	}
	off := 0
	if i := strings.IndexAny(side, "+-"); i >= 0 {
		var err error
		if off, err = strconv.Atoi(side[i:]); err != nil {
			return [2]int{}, err
		}
		side = side[:i]
	}
	switch side {
	case "left":
		return [2]int{r.x, r.y + r.h/2 + off}, nil
	case "right":
		return [2]int{r.x + r.w, r.y + r.h/2 + off}, nil
	case "top":
		return [2]int{r.x + r.w/2 + off, r.y}, nil
	case "bottom":
		return [2]int{r.x + r.w/2 + off, r.y + r.h}, nil
	}
	return [2]int{}, fmt.Errorf("%q is no side", side)
}

// check finds what does not fit, and what lies over something else.
func (p *picture) check() error {
	var errs []error
	for i, a := range p.pieces {
		outer := p.size
		if a.in != "" {
			outer = p.boxes[a.in]
		}
		if !outer.holds(a.rect) {
			errs = append(errs, fmt.Errorf("%s does not fit: it takes %+v of %+v", a.what, a.rect, outer))
		}
		for _, b := range p.pieces[i+1:] {
			if a.meets(b.rect) && !mayMeet(a, b) {
				errs = append(errs, fmt.Errorf("%s lies over %s", a.what, b.what))
			}
		}
	}
	return errors.Join(errs...)
}

// mayMeet: a box's own texts, an arrow and its boxes, arrows among themselves.
func mayMeet(a, b piece) bool {
	if a.ends[0] != "" && b.ends[0] != "" {
		return true
	}
	touches := func(arrow, box piece) bool {
		return arrow.ends[0] != "" && (box.what == "box "+arrow.ends[0] || box.what == "box "+arrow.ends[1])
	}
	return a.what == "box "+b.in || b.what == "box "+a.in || touches(a, b) || touches(b, a)
}

func numbers(words []string) ([]int, error) {
	var out []int
	for _, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func abs(n int) int { return max(n, -n) }
