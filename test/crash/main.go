// Crash cuts the power of a filesystem while the engine works on it, again and
// again, and looks at what is there afterwards.
//
//	crash [-balena FILE] [-fs ext4|xfs] [-n CUTS] [-seed N] [-op NAME,...] [-at POINT] [-peer podman|docker] [-v]
//
// Needs root, loop devices and a mount namespace of its own (`unshare -m`).
// Each cut starts from a copy of a prepared filesystem, runs one command of the
// engine and shuts the filesystem down with the ioctl that ext4 and XFS have
// for it: what was not written then never will be. All processes are killed,
// the filesystem is mounted again, which replays its journal, the run folder is
// empty as after a reboot, and the boot ID is another. Then:
//
//   - every layer in the store must be byte-exact: each entry's type, mode,
//     owner, size, time, content, link target and extended attributes against
//     the tar it came from, and the tar put together again has its digest;
//   - what succeeded before the cut must be there, what did not is there
//     whole or not at all;
//   - the same command must succeed and give the same result as without a cut;
//   - nothing may be left over after that.
//
// A cut happens right after the n-th system call of those that order what gets
// to the disk (n is chosen, or all), at a random time, or right after the
// command said that it succeeded. The journal is thrown away as it is in
// memory, or committed at the last moment without the files' content, whichever
// the seed says.
package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

type options struct {
	balena, fs, ops, at, peer, keep, vm string
	n                                   int
	seed                                uint64
	verbose                             bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childStage {
		fmt.Fprintln(os.Stderr, "crash:", childMain(os.Args[2:]))
		os.Exit(1)
	}
	var o options
	flag.StringVar(&o.balena, "balena", "bin/balena", "the engine")
	flag.StringVar(&o.fs, "fs", "ext4", "ext4 or xfs")
	flag.StringVar(&o.ops, "op", "", "only these operations, comma-separated")
	flag.StringVar(&o.at, "at", "", "only this point of time, as a failure prints it")
	flag.StringVar(&o.peer, "peer", "", "podman or docker instead: the pull cases")
	flag.StringVar(&o.vm, "vm", "", "cut a whole machine: the folder with the guest that test/crashvm/guest makes")
	flag.IntVar(&o.n, "n", 120, "how many cuts in all")
	flag.Uint64Var(&o.seed, "seed", 0, "of the random choices; 0 takes one and prints it")
	flag.StringVar(&o.keep, "keep", "", "file for the disk as the last cut left it")
	flag.BoolVar(&o.verbose, "v", false, "a line for each cut")
	flag.Parse()
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	ok, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// tally counts what went wrong with one operation.
type tally struct {
	op                                          string
	cuts, corrupt, lost, halfMade, leak, repair int
	took                                        time.Duration
}

func (t tally) failed() int { return t.corrupt + t.lost + t.halfMade + t.leak + t.repair }

func run(o options) (ok bool, err error) {
	fmt.Printf("# power cuts: SEED=%d FS=%s N=%d\n", o.seed, o.fs, o.n)
	w, err := newWorld(o)
	if err != nil {
		return false, err
	}
	defer func() { err = joinClose(err, w) }()
	if o.vm != "" {
		return w.vmAll()
	}
	ops, err := chooseOps(w, o)
	if err != nil {
		return false, err
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	ok = true
	var all []tally
	for _, op := range ops {
		n := max(2, (o.n*op.weight+total/2)/total)
		if o.at != "" {
			n = 1
		}
		t, err := w.series(op, n)
		if err != nil {
			return false, fmt.Errorf("%s: %w", op.name, err)
		}
		all = append(all, t)
		ok = ok && t.failed() == 0
		fmt.Printf("%-10s %s\n", op.name, t)
	}
	table(os.Stdout, w.engine.name(), o, all)
	return ok, nil
}

func (t tally) String() string {
	return fmt.Sprintf("%d cuts, %d corrupt, %d lost, %d half-made, %d leaked, %d failed repairs (%.1f s a cut)",
		t.cuts, t.corrupt, t.lost, t.halfMade, t.leak, t.repair, t.took.Seconds()/float64(max(1, t.cuts)))
}

func table(out io.Writer, engine string, o options, all []tally) {
	fmt.Fprintf(out, "\n# %s on %s, SEED=%d\n", engine, o.fs, o.seed)
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "operation\tcuts\tcorrupt\tlost\thalf-made\tleaked\tfailed repairs")
	var sum tally
	for _, t := range all {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%d\n", t.op, t.cuts, t.corrupt, t.lost, t.halfMade, t.leak, t.repair)
		sum.cuts, sum.corrupt, sum.lost = sum.cuts+t.cuts, sum.corrupt+t.corrupt, sum.lost+t.lost
		sum.halfMade, sum.leak, sum.repair = sum.halfMade+t.halfMade, sum.leak+t.leak, sum.repair+t.repair
	}
	fmt.Fprintf(tw, "all\t%d\t%d\t%d\t%d\t%d\t%d\n", sum.cuts, sum.corrupt, sum.lost, sum.halfMade, sum.leak, sum.repair)
	_ = tw.Flush()
}

func chooseOps(w *world, o options) ([]*op, error) {
	all := w.engine.ops(w)
	if o.ops == "" {
		return all, nil
	}
	var out []*op
	for _, name := range strings.Split(o.ops, ",") {
		i := slices.IndexFunc(all, func(op *op) bool { return op.name == name })
		if i < 0 {
			var names []string
			for _, op := range all {
				names = append(names, op.name)
			}
			return nil, fmt.Errorf("no operation %q: there are %s", name, strings.Join(names, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

func joinClose(err error, w *world) error {
	if cerr := w.close(); err == nil {
		return cerr
	}
	return err
}
