package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/term"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/pull"
)

// deltaOptions are the flags of `balena image delta`.
type deltaOptions struct {
	pull.DeltaOptions
	output   string
	fromTags string
	last     int
	quiet    bool
	format   string
}

// newImageDeltaCmd is `balena image delta`, which creates when it is given
// images rather than one of its commands.
func newImageDeltaCmd(e *env) *cobra.Command {
	cmd := newDeltaCreateCmd(e)
	cmd.Use = "delta [flags] BASE... TARGET"
	cmd.AddCommand(newDeltaCreateCmd(e), newDeltaLsCmd(e), newDeltaRmCmd(e))
	return cmd
}

func newDeltaCreateCmd(e *env) *cobra.Command {
	var o deltaOptions
	cmd := &cobra.Command{
		Use: "create [flags] BASE... TARGET", Short: "Make what a device with BASE needs to download for TARGET",
		Long: `Make deltas: what a device that has the image BASE needs to download to have TARGET. Each BASE makes one.

With --push they are published beside TARGET in its registry, without a tag; "balena pull TARGET" finds them there by itself. The registry must have TARGET already. --tag stores one as an image of this machine, as balena-engine does, and -o writes an archive for "balena load", for devices that are updated from a USB stick.

Images are those of this machine, or with docker://NAME (also oci:FOLDER, oci-archive:FILE, docker-archive:FILE, dir:FOLDER) those of a registry, which are read without being stored. What is in the files of such a base lies in an unnamed temporary file in $TMPDIR (default /var/tmp) meanwhile, and so does each delta.

The same images make the same delta, byte for byte. With SOURCE_DATE_EPOCH set, its time is written into the artifact.

A delta that saves nothing is not kept, and one that is published already is not made again, unless --force is given.`,
		Example: `  balena image delta --push docker://registry.example.com/app:1 docker://registry.example.com/app:2
  balena image delta --from-tags 'v*' --last 5 --push docker://registry.example.com/app:v8
  balena image delta -o update.tar app:1 app:2
  balena image delta -t app:1-2 app:1 app:2
  balena image delta --compat=balena-engine -t registry.example.com/app:1-2 app:1 app:2`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case o.fromTags == "" && len(args) < 2:
				return usageError{errors.New("a delta takes at least one BASE, and a TARGET\nSee 'balena image delta --help'")}
			case o.fromTags != "" && len(args) != 1:
				return usageError{errors.New("with --from-tags there is just a TARGET\nSee 'balena image delta --help'")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return interruptible(cmd.Context(), func(ctx context.Context) error { return e.makeDeltas(ctx, args, o) })
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&o.Tag, "tag", "t", "", "store the delta as an image of this name")
	f.StringVar(&o.Compat, "compat", "", "with --tag: 'balena-engine' makes a delta for devices that run that")
	f.Var(pushFlag{&o.Push, &o.Repo}, "push", "publish beside TARGET, or in --push=REPO if TARGET is there")
	f.Lookup("push").NoOptDefVal = besideTarget
	f.StringVarP(&o.output, "output", "o", "", "write an OCI archive to this file; - is stdout")
	f.StringVar(&o.fromTags, "from-tags", "", "BASEs are the tags of TARGET's repository that fit this pattern, the latest --last of them")
	f.IntVar(&o.last, "last", 5, "how many tags")
	f.IntVar(&o.Level, "level", 0, "1 to 9: the higher, the smaller and slower (default 3)")
	f.BoolVarP(&o.Force, "force", "f", false, "although it is published already or saves nothing")
	f.StringVar(&o.Platform, "platform", "", "OS/ARCH[/VARIANT] to choose from an index (default: this machine's)")
	f.BoolVar(&o.AllPlatforms, "all-platforms", false, "a delta for each platform of TARGET's index")
	f.StringVar(&o.format, "format", "", "'json', 'table TEMPLATE' or a template")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress, and print only digests")
	addRegistryFlags(f, &o.RegistryOptions)
	addCredsFlag(f, &o.RegistryOptions)
	return cmd
}

// besideTarget is --push without a repository; no repository has this name.
const besideTarget = "beside TARGET"

// pushFlag is --push[=REPO].
type pushFlag struct {
	on   *bool
	repo *string
}

var _ pflag.Value = pushFlag{}

func (p pushFlag) String() string { return "" }
func (p pushFlag) Type() string   { return "REPO" }
func (p pushFlag) Set(s string) error {
	*p.on, *p.repo = true, s
	if s == besideTarget {
		*p.repo = ""
	}
	return nil
}

func (e *env) makeDeltas(ctx context.Context, args []string, o deltaOptions) error {
	if o.Tag == "" && o.output == "" && !o.Push {
		return usageError{errors.New("where to? add --push to publish the delta, -o FILE for an archive, or -t NAME to store it")}
	}
	if o.Compat != "" && (o.Tag == "" || o.output != "" || o.Push) {
		return usageError{errors.New("a delta for balena-engine is an image: give it a name with -t NAME, and push that")}
	}
	if o.Level < 0 || o.Level > 9 {
		return usageError{fmt.Errorf("--level is 1 to 9, not %d", o.Level)}
	}
	var err error
	if o.Created, err = sourceDate(); err != nil {
		return err
	}
	st, err := e.store()
	if err != nil {
		return err
	}
	bases, target := args[:len(args)-1], args[len(args)-1]
	if o.fromTags != "" {
		if o.last < 1 {
			return usageError{fmt.Errorf("--last is at least 1, not %d", o.last)}
		}
		if bases, err = pull.ReleasesBefore(ctx, st, o.fromTags, o.last, target, o.DeltaOptions); err != nil {
			return err
		}
		if len(bases) == 0 {
			fmt.Fprintf(e.stderr, "no other image has a tag that fits %q\n", o.fromTags)
			return nil
		}
	}
	summary := e.stdout
	var file *outputFile
	if o.output != "" {
		if o.output == "-" {
			if term.IsTerminal(e.stdout.Fd()) {
				return usageError{errors.New("an archive is nothing for a terminal: name a file, or send stdout somewhere")}
			}
			summary, o.Archive = e.stderr, e.stdout
		} else {
			if file, err = newOutputFile(o.output); err != nil {
				return err
			}
			defer file.discard()
			o.Archive = file
		}
	}
	show, done := e.deltaProgress(o.quiet)
	o.Progress = show
	if !o.quiet && (len(bases) > 1 || o.AllPlatforms) { // which may take a while
		o.Made = func(d pull.MadeDelta) {
			done()
			if d.Skipped == "" {
				fmt.Fprintf(e.stderr, "delta from %s: %s instead of %s\n", d.Base, units.HumanSizeWithPrecision(float64(d.Size), 3), wholeText(d))
			}
		}
	}
	made, err := pull.MakeDeltas(ctx, st, bases, target, o.DeltaOptions)
	done()
	if perr := e.printDeltas(summary, made, o); err == nil {
		err = perr
	}
	if err == nil && file != nil && file.written {
		err = file.keep()
	}
	return err
}

// sourceDate is the time that SOURCE_DATE_EPOCH says; zero without it.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is seconds since 1970, not %q", text)
	}
	return time.Unix(n, 0).UTC(), nil
}

// deltaRow is a line of the summary.
type deltaRow struct {
	pull.MadeDelta
	Ratio  float64
	Full   string `json:"-"`
	Delta  string `json:"-"`
	Factor string `json:"-"`
	Time   string `json:"-"`
	Peak   string `json:"-"`
}

func (e *env) printDeltas(w *os.File, made []pull.MadeDelta, o deltaOptions) error {
	var records []any
	for _, d := range made {
		if d.Skipped != "" && o.format == "" {
			fmt.Fprintf(e.stderr, "%s to %s: %s\n", d.Base, d.Target, d.Skipped)
		}
		if d.Size == 0 && o.format == "" {
			continue
		}
		row := deltaRow{MadeDelta: d, Ratio: d.Ratio(), Full: wholeText(d), Delta: units.HumanSizeWithPrecision(float64(d.Size), 3),
			Factor: factor(d.Ratio()), Time: fmt.Sprintf("%.1fs", d.Seconds), Peak: units.HumanSizeWithPrecision(float64(d.Memory), 3)}
		records = append(records, &row)
	}
	if o.quiet && o.format == "" {
		for _, d := range made {
			if id := quietDelta(d); id != "" {
				fmt.Fprintln(w, id)
			}
		}
		return nil
	}
	if len(records) == 0 {
		return nil
	}
	l := format.List{
		Default: `table {{.Base}}\t{{.Target}}\t{{.Full}}\t{{.Delta}}\t{{.Factor}}\t{{.Time}}\t{{.Peak}}`,
		Headers: map[string]string{"Full": "WHOLE LAYERS", "Factor": "RATIO", "Peak": "MEMORY"},
	}
	if o.AllPlatforms {
		l.Default = `table {{.Base}}\t{{.Target}}\t{{.Platform}}\t{{.Full}}\t{{.Delta}}\t{{.Factor}}\t{{.Time}}\t{{.Peak}}`
	}
	if err := l.Print(w, o.format, records); err != nil || o.format != "" {
		return err
	}
	for _, d := range made {
		if d.Artifact != "" {
			fmt.Fprintf(w, "published in %s: %s\n", d.Repo, d.Artifact)
		}
		if d.Image != "" {
			fmt.Fprintf(w, "stored as %s: %s\n", o.Tag, imageID(d.Image, true))
		}
	}
	return nil
}

// quietDelta is what a script needs to know about a delta.
func quietDelta(d pull.MadeDelta) string {
	switch {
	case d.Artifact != "":
		return d.Artifact.String()
	case d.Image != "":
		return imageID(d.Image, true)
	case d.Skipped == "":
		return d.Digest.String()
	}
	return ""
}

// wholeText is what a plain pull of the layers takes, and what they unpack to.
func wholeText(d pull.MadeDelta) string {
	tar := units.HumanSizeWithPrecision(float64(d.Tar), 3)
	if d.Whole < 0 {
		return tar + " unpacked"
	}
	return units.HumanSizeWithPrecision(float64(d.Whole), 3) + " (" + tar + " unpacked)"
}

func factor(r float64) string {
	switch {
	case r == 0:
		return "-"
	case r < 10:
		return fmt.Sprintf("%.1fx", r)
	}
	return fmt.Sprintf("%.0fx", r)
}

// deltaProgress shows on a terminal what is being done, in one line.
func (e *env) deltaProgress(quiet bool) (show func(pull.DeltaEvent), done func()) {
	if quiet || !term.IsTerminal(e.stderr.Fd()) || os.Getenv("TERM") == "dumb" {
		return nil, func() {}
	}
	width := 80
	if ws, err := term.GetWinsize(e.stderr.Fd()); err == nil && ws.Width > 0 {
		width = int(ws.Width)
	}
	var last time.Time
	var step pull.DeltaStep
	words := [...]string{pull.ReadingBase: "reading the base", pull.MakingDelta: "making", pull.SendingDelta: "publishing"}
	show = func(ev pull.DeltaEvent) {
		if ev.Step == step && time.Since(last) < 100*time.Millisecond && ev.Done != ev.Total {
			return
		}
		step, last = ev.Step, time.Now()
		text := units.HumanSizeWithPrecision(float64(ev.Done), 3)
		if ev.Total > 0 {
			text = fmt.Sprintf("%d%% of %s", min(100, 100*ev.Done/ev.Total), units.HumanSizeWithPrecision(float64(ev.Total), 3))
		}
		line := []rune(fmt.Sprintf("delta from %s: %s %s", ev.Base, words[ev.Step], text))
		fmt.Fprintf(e.stderr, "\r%s\x1b[K", string(line[:min(len(line), width-1)]))
	}
	return show, func() {
		if !last.IsZero() {
			fmt.Fprint(e.stderr, "\r\x1b[K")
		}
	}
}
