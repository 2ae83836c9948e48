package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// point is when the power is cut.
type point struct {
	call    int           // after so many system calls; 0: by time
	after   time.Duration // after the start
	exit    bool          // when the command has ended
	late    time.Duration // so long after it
	journal bool          // the journal's memory is written first
}

func (p point) String() string {
	s := "exit+" + p.late.String()
	switch {
	case p.call > 0:
		s = "call:" + strconv.Itoa(p.call)
	case !p.exit:
		s = "time:" + p.after.String()
	}
	if p.journal {
		s += ",journal"
	}
	return s
}

func parsePoint(s string) (p point, err error) {
	s, p.journal = strings.CutSuffix(s, ",journal")
	kind, value, _ := strings.Cut(s, ":")
	switch kind {
	case "call":
		p.call, err = strconv.Atoi(value)
	case "time":
		p.after, err = time.ParseDuration(value)
	default:
		p.exit = true
		p.late, err = time.ParseDuration(strings.TrimPrefix(s, "exit+"))
	}
	return p, err
}

// reference is an operation that nothing interrupts.
type reference struct {
	before, after snapshot
	calls         int
	took          time.Duration
}

func (w *world) reference(o *op) (r reference, err error) {
	template, err := w.template(o.steps)
	if err != nil {
		return r, err
	}
	// What is there when the power fails without the operation.
	if err := w.prepare(template, o); err != nil {
		return r, err
	}
	if r.before, err = w.restartAndLook(); err != nil {
		return r, err
	}
	if err := w.prepare(template, o); err != nil {
		return r, err
	}
	start := time.Now()
	if err := w.do(o.run); err != nil {
		return r, err
	}
	if !strings.Contains(w.said, o.says) {
		return r, fmt.Errorf("it does not say %q: %s", o.says, w.said)
	}
	r.took = time.Since(start)
	if r.after, err = w.restartAndLook(); err != nil {
		return r, err
	}
	if err := w.prepare(template, o); err != nil {
		return r, err
	}
	if !w.engine.traceable() {
		return r, w.powerOff()
	}
	t, err := trace(w.commandOf(context.Background(), o.run), 0, func() {})
	if err != nil {
		return r, err
	}
	r.calls = t.count
	if t.code != 0 {
		return r, fmt.Errorf("traced, it exits with %d", t.code)
	}
	return r, w.powerOff()
}

func (w *world) prepare(template string, o *op) error {
	if err := w.boot(template); err != nil {
		return err
	}
	for _, c := range o.live {
		if err := w.do(c); err != nil {
			return err
		}
	}
	w.makes, w.damaged = o.makes, ""
	if o.broken == "" {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(w.root(), "overlay", "*", "diff", o.broken))
	if len(found) != 1 {
		return fmt.Errorf("%d files are %s", len(found), o.broken)
	}
	w.damaged = found[0]
	return errors.Join(os.Truncate(w.damaged, 0), unix.Syncfs(int(w.disk.Fd())))
}

// stillDamaged tells whether what prepare broke is as it was left: neither
// repaired, nor anything else than empty.
func (w *world) stillDamaged() bool {
	st, err := os.Stat(w.damaged)
	return w.damaged != "" && err == nil && st.Size() == 0
}

// restartAndLook turns the machine off when everything is on the disk, and on
// again. Nobody gets to write that others are being killed.
func (w *world) restartAndLook() (snapshot, error) {
	if err := errors.Join(unix.Syncfs(int(w.disk.Fd())), w.cut(true)); err != nil {
		return nil, err
	}
	if err := w.powerOff(); err != nil {
		return nil, err
	}
	if err := w.reboot(); err != nil {
		return nil, err
	}
	s, err := w.engine.snapshot(w)
	return s, errors.Join(err, w.powerOff())
}

// points chooses n moments: two after success, one in four by time, the others
// after system calls, each of them at most once for each fate of the journal.
func (r reference) points(n int, rnd *rand.Rand) []point {
	out := []point{{exit: true}, {exit: true, late: time.Duration(rnd.IntN(300)) * time.Millisecond, journal: true}}
	var calls []point
	for i := range r.calls {
		calls = append(calls, point{call: i + 1}, point{call: i + 1, journal: true})
	}
	rnd.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	for len(out) < n {
		if len(out)%4 == 3 || len(calls) == 0 {
			after := time.Duration(rnd.Int64N(int64(r.took)*5/4 + 1)).Round(time.Microsecond)
			out = append(out, point{after: after, journal: rnd.IntN(2) == 0})
			continue
		}
		out, calls = append(out, calls[0]), calls[1:]
	}
	return out[:n]
}

// series cuts one operation n times.
func (w *world) series(o *op, n int) (tally, error) {
	t := tally{op: o.name}
	r, err := w.reference(o)
	if err != nil {
		return t, fmt.Errorf("without a cut: %w", err)
	}
	h := fnv.New64a()
	h.Write([]byte(w.o.fs + o.name))
	points := r.points(n, rand.New(rand.NewPCG(w.o.seed, h.Sum64())))
	if w.o.at != "" {
		p, err := parsePoint(w.o.at)
		if err != nil {
			return t, err
		}
		points = []point{p}
	}
	start := time.Now()
	for _, p := range points {
		res, err := w.once(o, r, p)
		if err != nil {
			return t, fmt.Errorf("cut at %s: %w", p, err)
		}
		t.cuts++
		t.add(res)
		if len(res.faults) > 0 || w.o.verbose {
			fmt.Printf("  OP=%s FS=%s AT=%s %s\n", o.name, w.o.fs, p, res)
		}
	}
	t.took = time.Since(start)
	return t, nil
}

// result of one cut. A fault belongs to one of the kinds that are counted.
type result struct {
	when    string
	success bool // the command had succeeded before the cut
	faults  []fault
}

type fault struct{ kind, text string }

func (r *result) fault(kind string, what ...string) {
	for _, t := range what {
		r.faults = append(r.faults, fault{kind, strings.ReplaceAll(t, "\n", "; ")})
	}
}

func (r result) String() string {
	s := r.when
	if r.success {
		s += ", it had succeeded"
	}
	if len(r.faults) == 0 {
		return s + ": well"
	}
	for _, f := range r.faults {
		s += "\n    " + strings.ToUpper(f.kind) + ": " + f.text
	}
	return s
}

func (t *tally) add(r result) {
	kinds := map[string]bool{}
	for _, f := range r.faults {
		kinds[f.kind] = true
	}
	for kind, n := range map[string]*int{"corrupt": &t.corrupt, "lost": &t.lost, "half-made": &t.halfMade, "leak": &t.leak, "repair": &t.repair} {
		if kinds[kind] {
			*n++
		}
	}
}

// once makes one cut and looks at what it did. An error is one of the harness.
func (w *world) once(o *op, r reference, p point) (res result, err error) {
	template, err := w.template(o.steps)
	if err != nil {
		return res, err
	}
	if err := w.prepare(template, o); err != nil {
		return res, err
	}
	if res.success, res.when, err = w.runAndCut(o, p); err != nil {
		return res, err
	}
	if err := w.powerOff(); err != nil {
		return res, err
	}
	if w.o.keep != "" {
		if err := command("cp", "--sparse=always", w.scratch(), w.o.keep); err != nil {
			return res, err
		}
	}
	if err := w.reboot(); err != nil {
		return res, err
	}
	now, err := w.engine.snapshot(w)
	if err != nil {
		res.fault("corrupt", err.Error())
		return res, w.powerOff()
	}
	if res.success {
		w.damaged = ""
	}
	// The exchange that repairs a layer changes its root's time on XFS, for the
	// moment until it is set again.
	w.anyRoot = o.broken != "" && !res.success && w.o.fs == "xfs"
	if err := w.engine.verify(w); err != nil {
		res.fault("corrupt", err.Error())
	}
	lost, half := now.allowed(r.before, r.after, res.success, o.may)
	res.fault("lost", lost...)
	res.fault("half-made", half...)
	w.repair(o, r, now, &res)
	return res, w.powerOff()
}

// repair runs the command once more, as a person would, and looks again.
func (w *world) repair(o *op, r reference, now snapshot, res *result) {
	again := append(slices.Clone(o.live), o.run)
	if o.again != nil {
		again = o.again(now)
	}
	for _, c := range append(again, o.tidy...) {
		if err := w.do(c); err != nil {
			res.fault("repair", err.Error())
			return
		}
	}
	w.damaged = ""
	if err := w.engine.verify(w); err != nil {
		res.fault("repair", "after the repair: "+err.Error())
	}
	leaks, err := w.engine.leaks(w)
	if err != nil {
		res.fault("repair", err.Error())
	}
	res.fault("leak", leaks...)
	after, err := w.engine.snapshot(w)
	if err != nil {
		res.fault("repair", err.Error())
		return
	}
	// What runs now the reboot would have ended: only names are compared.
	lost, half := after.names().allowed(r.after.names(), r.after.names(), true, o.may)
	for _, l := range append(lost, half...) {
		res.fault("repair", "after the repair: "+l)
	}
}

// names is the snapshot without the states of containers.
func (s snapshot) names() snapshot {
	n := snapshot{}
	for k, v := range s {
		if strings.HasPrefix(k, "container ") {
			v = ""
		}
		n[k] = v
	}
	return n
}

// runAndCut runs the command and cuts the power at the point.
func (w *world) runAndCut(o *op, p point) (success bool, when string, err error) {
	if p.call > 0 {
		var cutErr error
		t, err := trace(w.commandOf(context.Background(), o.run), p.call, func() { cutErr = w.cut(p.journal) })
		if err != nil {
			return false, "", err
		}
		return t.exited && t.code == 0, "after " + t.last, cutErr
	}
	cmd := w.commandOf(context.Background(), o.run)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return false, "", err
	}
	defer null.Close()
	cmd.Stdout, cmd.Stderr = null, null
	if err := cmd.Start(); err != nil {
		return false, "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var timer <-chan time.Time
	if !p.exit {
		timer = time.After(p.after)
	}
	select {
	case <-timer:
		err = w.cut(p.journal)
		_ = cmd.Process.Kill()
		<-ended
		return false, "at that time", err
	case werr := <-ended:
		if p.exit {
			time.Sleep(p.late)
		}
		return werr == nil, "after its end", w.cut(p.journal)
	}
}
