package main

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The guest of crash-vm has its disk in a file on a filesystem that is shut
// down at the moment in which qemu is killed. What the guest's kernel had not
// written is lost with qemu, and what it had written but not flushed with the
// filesystem: with cache=writeback, a flush of the guest's is an fdatasync of
// the file, and everything else is in the page cache of a filesystem that never
// writes it. It is what a drive's own cache loses.

const guestDisk = 256 << 20

// guestLimit is how long a job of the guest may take on a machine under load.
const guestLimit = 5 * time.Minute

func (w *world) guestFile() string { return filepath.Join(w.mnt(), "disk.img") }

// vmOp is a job of the guest's init that the power is cut in.
type vmOp struct {
	name   string
	from   string // the job that made its disk
	weight int
}

var vmOps = []vmOp{{"pull", "", 3}, {"update", "pull1", 3}, {"up", "pull1", 4}}

// guest is a job that runs.
type guest struct {
	cmd   *exec.Cmd
	lines chan string // what it reports; closed at its end
}

func (w *world) startGuest(job string) (*guest, error) {
	port := w.registry[strings.LastIndexByte(w.registry, ':'):]
	g := &guest{lines: make(chan string, 100)}
	g.cmd = exec.Command("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512",
		"-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
		"-kernel", filepath.Join(w.o.vm, "vmlinuz"), "-initrd", filepath.Join(w.o.vm, "initrd"),
		"-drive", "file="+w.guestFile()+",format=raw,if=virtio,cache=writeback",
		"-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=",
		"-append", "console=ttyS0 quiet mitigations=off random.trust_cpu=on panic=1 job="+job+" registry=10.0.2.2"+port)
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	g.cmd.Stderr = os.Stderr
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(g.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			line := strings.TrimSpace(s.Text())
			if w.o.verbose {
				fmt.Println("      ", line)
			}
			if i := strings.Index(line, "vm: "); i >= 0 {
				g.lines <- line[i+len("vm: "):]
			}
		}
	}()
	return g, nil
}

// finish collects what a job reports until the guest is off.
func (g *guest) finish() (said []string, err error) {
	limit := time.After(guestLimit)
	for {
		select {
		case line, ok := <-g.lines:
			if !ok {
				return said, nil
			}
			said = append(said, line)
		case <-limit:
			return said, errors.New("the guest does not get on; its last words: " + said[max(0, len(said)-1)])
		}
	}
}

// guestDo runs a job that ends in order.
func (w *world) guestDo(job string) ([]string, error) {
	g, err := w.startGuest(job)
	if err != nil {
		return nil, err
	}
	said, err := g.finish()
	return said, errors.Join(err, w.powerOff())
}

// guestTemplate makes the disk that an operation starts from. All of the file
// is written: a flush then has no extents to record.
func (w *world) guestTemplate(job string) (string, error) {
	if t, ok := w.templates[job]; ok {
		return t, nil
	}
	file := w.templateFile()
	if job == "" {
		blank := filepath.Join(w.dir, "blank.img")
		if err := errors.Join(command("truncate", "-s", strconv.Itoa(guestDisk), blank),
			command("mkfs.ext4", "-q", "-F", "-J", "size=8", "-E", "lazy_itable_init=0,lazy_journal_init=0", blank),
			w.format(w.scratch()), w.reboot(),
			command("cp", "--sparse=never", blank, w.guestFile()), command("sync", w.guestFile()),
			os.Remove(blank), w.powerOff()); err != nil {
			return "", err
		}
	} else {
		before, err := w.guestTemplate("")
		if err != nil {
			return "", err
		}
		if err := w.boot(before); err != nil {
			return "", err
		}
		said, err := w.guestDo(job)
		if err != nil || !contains(said, "end") || len(failures(said)) > 0 {
			return "", fmt.Errorf("job %s: %v: %w", job, said, err)
		}
	}
	w.templates[job] = file
	return file, command("cp", "--sparse=always", w.scratch(), file)
}

// vmAll cuts the power of the guest in all of its jobs.
func (w *world) vmAll() (ok bool, err error) {
	ok = true
	var all []tally
	for _, o := range vmOps {
		if w.o.ops != "" && !slices.Contains(strings.Split(w.o.ops, ","), "vm-"+o.name) {
			continue
		}
		n := max(2, w.o.n*o.weight/10)
		if w.o.at != "" {
			n = 1
		}
		t, err := w.vmSeries(o, n)
		if err != nil {
			return false, fmt.Errorf("vm-%s: %w", o.name, err)
		}
		all = append(all, t)
		ok = ok && t.failed() == 0
		fmt.Printf("%-10s %s\n", t.op, t)
	}
	table(os.Stdout, "balena in a guest", w.o, all)
	return ok, nil
}

// vmSeries cuts the power of the guest in one of its jobs n times.
func (w *world) vmSeries(o vmOp, n int) (tally, error) {
	t := tally{op: "vm-" + o.name}
	template, err := w.guestTemplate(o.from)
	if err != nil {
		return t, err
	}
	h := fnv.New64a()
	h.Write([]byte("vm" + o.name))
	rnd := rand.New(rand.NewPCG(w.o.seed, h.Sum64()))
	// Once without a cut: how long it takes, and how much it reports.
	all, took, err := w.vmCut(o, template, func([]string) time.Duration { return -1 }, false)
	if err != nil || len(failures(all)) > 0 {
		return t, fmt.Errorf("without a cut: %v: %w", all, err)
	}
	start := time.Now()
	for i := range n {
		journal := rnd.IntN(2) == 0
		at, when := vmPoint(i, rnd, all, took)
		if w.o.at != "" {
			if at, when, err = parseVMPoint(w.o.at); err != nil {
				return t, err
			}
		}
		said, _, err := w.vmCut(o, template, at, journal)
		if err != nil {
			return t, fmt.Errorf("cut %s: %w", when, err)
		}
		var res result
		res.when = fmt.Sprintf("after %q", said[len(said)-1])
		if err := w.vmLook(said, &res); err != nil {
			return t, err
		}
		t.cuts++
		t.add(res)
		if len(res.faults) > 0 || w.o.verbose {
			fmt.Printf("  OP=%s AT=%s %s\n", t.op, when, res)
		}
	}
	t.took = time.Since(start)
	return t, nil
}

// vmPoint chooses a moment: every other is right after something was reported,
// the others are anywhere between the beginning and a little after the end.
func vmPoint(i int, rnd *rand.Rand, all []string, took time.Duration) (at func([]string) time.Duration, when string) {
	if i%2 == 0 {
		when = "line:" + strconv.Itoa(2+rnd.IntN(len(all)-1))
	} else {
		when = "time:" + time.Duration(rnd.Int64N(int64(took)*11/10)).Round(time.Millisecond).String()
	}
	at, _, _ = parseVMPoint(when)
	return at, when
}

// parseVMPoint gives a function that says of what was reported how long to wait
// from now on; below 0: for more.
func parseVMPoint(s string) (at func([]string) time.Duration, when string, err error) {
	kind, value, _ := strings.Cut(s, ":")
	if kind == "line" {
		n, err := strconv.Atoi(value)
		return func(said []string) time.Duration {
			if len(said) >= n {
				return 0
			}
			return -1
		}, s, err
	}
	d, err := time.ParseDuration(value)
	return func(said []string) time.Duration {
		if contains(said, "go") {
			return d
		}
		return -1
	}, s, err
}

// vmCut starts the job and cuts the power when at says so, or at its end. It
// returns what was reported before, and how long it was at work.
func (w *world) vmCut(o vmOp, template string, at func([]string) time.Duration, journal bool) (said []string, took time.Duration, err error) {
	if err := w.boot(template); err != nil {
		return nil, 0, err
	}
	g, err := w.startGuest(o.name)
	if err != nil {
		return nil, 0, err
	}
	var start time.Time
	var timer <-chan time.Time
	limit := time.After(guestLimit)
	for done := false; !done; {
		select {
		case line, ok := <-g.lines:
			if !ok {
				return said, 0, fmt.Errorf("the guest ended by itself: %v", said)
			}
			said = append(said, line)
			if line == "go" {
				start = time.Now()
			}
			if d := at(said); d == 0 {
				done = true
			} else if d > 0 && timer == nil {
				timer = time.After(d)
			}
			done = done || line == "end" && timer == nil
		case <-timer:
			done = true
		case <-limit:
			return said, 0, fmt.Errorf("the guest does not get on: %v", said)
		}
	}
	took = time.Since(start)
	return said, took, errors.Join(w.cut(journal), g.cmd.Process.Kill(), w.powerOff())
}

// vmLook looks at the disk, boots the guest again, and looks at what it says.
func (w *world) vmLook(said []string, res *result) error {
	if err := w.reboot(); err != nil {
		return err
	}
	if err := w.onGuestDisk(func(root string) { w.vmVerify(root, false, res) }); err != nil {
		return err
	}
	after, err := w.guestDo("check")
	if err != nil {
		return err
	}
	if !contains(after, "end") {
		res.fault("repair", fmt.Sprintf("the guest does not come up: %v", after))
		return nil
	}
	first := after[:max(0, index(after, "did check")+1)]
	if !contains(first, "did quick check") || !contains(first, "did check") {
		res.fault("corrupt", failures(after)...)
	} else {
		res.fault("repair", failures(after)...)
	}
	lost, half := expect(said, first)
	res.fault("lost", lost...)
	res.fault("half-made", half...)
	if err := w.reboot(); err != nil {
		return err
	}
	err = w.onGuestDisk(func(root string) { w.vmVerify(root, true, res) })
	return errors.Join(err, w.powerOff())
}

// vmVerify looks at the store on the guest's disk: byte-exact, and after
// everything was repaired nothing may be left over.
func (w *world) vmVerify(root string, repaired bool, res *result) {
	s, err := readStore(root)
	if err == nil {
		err = s.verify(w, nil, true)
	}
	switch {
	case err != nil && repaired:
		res.fault("repair", err.Error())
	case err != nil:
		res.fault("corrupt", err.Error())
	case repaired:
		res.fault("leak", s.leaks()...)
	}
}

// onGuestDisk mounts a copy of the guest's disk, so that the guest itself has to
// replay its journal.
func (w *world) onGuestDisk(look func(root string)) error {
	file, dir := filepath.Join(w.dir, "look.img"), filepath.Join(w.dir, "look")
	if err := errors.Join(command("cp", w.guestFile(), file), os.MkdirAll(dir, 0o755), command("mount", "-o", "loop", file, dir)); err != nil {
		return err
	}
	look(filepath.Join(dir, "root"))
	return errors.Join(unix.Unmount(dir, 0), os.Remove(file))
}

func contains(lines []string, line string) bool { return index(lines, line) >= 0 }

func index(lines []string, line string) int {
	for i, l := range lines {
		if l == line {
			return i
		}
	}
	return -1
}

func failures(said []string) (out []string) {
	for _, l := range said {
		if strings.HasPrefix(l, "failed") {
			out = append(out, l)
		}
	}
	return out
}

// expect compares what was reported before the cut with what the next boot
// finds: images and containers that are missing, and states that cannot be.
func expect(before, now []string) (lost, half []string) {
	have := map[string]string{}
	for _, l := range now {
		if kind, rest, _ := strings.Cut(l, " "); kind == "image" || kind == "container" {
			name, value, _ := strings.Cut(rest, " ")
			have[kind+" "+name[strings.LastIndexByte(name, '/')+1:]] = value
		}
	}
	for _, image := range []string{"1", "2"} {
		if contains(before, "did pull "+image) && have["image app:"+image] == "" {
			lost = append(lost, "image app:"+image)
		}
	}
	for name, states := range containerStates(before) {
		state := have["container "+name]
		switch {
		case state == "" && !slices.Contains(states, ""):
			lost = append(lost, "container "+name)
		case !slices.Contains(states, state):
			half = append(half, "container "+name+" is "+state)
		}
	}
	return lost, half
}

// containerStates says what the containers of the job "up" may be after a cut,
// by what was reported before it: "" is not there, 255 an end that nobody saw,
// and a step that was not reported may have happened.
func containerStates(before []string) map[string][]string {
	did := func(step string) bool { return contains(before, "did "+step) }
	unsure := []string{"", "created 0", "exited 255"}
	s := map[string][]string{"ended": append(unsure, "exited 0"), "three": append(unsure, "exited 3"), "a": unsure, "b": unsure, "c": unsure}
	cut, killed := "exited 255", "exited 137"
	for _, step := range []struct {
		name, container string
		states          []string
	}{
		{"run ended", "ended", []string{"exited 0"}}, {"run three", "three", []string{"exited 3"}},
		{"run a", "a", []string{cut, killed}}, {"run b", "b", []string{cut}}, {"run c", "c", []string{cut, killed, ""}},
		{"stop a", "a", []string{killed, cut}}, {"start a", "a", []string{cut}}, {"rm c", "c", []string{""}},
	} {
		if did(step.name) {
			s[step.container] = step.states
		}
	}
	return s
}
