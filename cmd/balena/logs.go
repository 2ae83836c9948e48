package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/monitor"
)

type logsFlags struct {
	follow, timestamps bool
	tail, since, until string
}

func newLogsCmd(e *env) *cobra.Command {
	var o logsFlags
	cmd := &cobra.Command{
		Use: "logs CONTAINER", Short: "Show what a container has written",
		Long: `Show what a container's processes have written to stdout and stderr, each on our own.

TIME is a date (2026-01-31), a date with a time (2026-01-31T12:00:00, RFC 3339), seconds since 1970, or how long ago (90s, 1h30m).`,
		Example: "  balena logs -f --tail 100 web\n  balena logs --since 10m -t web",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.logs(cmd.Context(), args[0], o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on until the container ends")
	f.StringVarP(&o.tail, "tail", "n", "all", "only so many lines from the end")
	f.StringVar(&o.since, "since", "", "only what was written since TIME")
	f.StringVar(&o.until, "until", "", "only what was written before TIME")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "show when each line was written")
	return cmd
}

func (e *env) logs(ctx context.Context, ref string, o logsFlags) error {
	eng, err := e.engine()
	if err != nil {
		return err
	}
	lo, err := o.options(time.Now())
	if err != nil {
		return usageError{err}
	}
	c, err := eng.Find(ctx, ref)
	if err != nil {
		return err
	}
	if c.Config.LogDriver == "none" {
		return fmt.Errorf("container %s was made with --log-driver none: nothing of what it writes is kept", ref)
	}
	lo.RunDir = eng.Store.BundleDir(c.ID)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	p := logPrinter{timestamps: o.timestamps, out: [2]*bufio.Writer{bufio.NewWriter(e.stdout), bufio.NewWriter(e.stderr)}}
	p.begun = [2]bool{}
	p.eager = o.follow
	err = monitor.ReadLogs(ctx, eng.Store.ContainerDir(c.ID), c.ID, lo, p.print)
	err = errors.Join(err, p.out[0].Flush(), p.out[1].Flush())
	if errors.Is(err, context.Canceled) {
		return exitStatus{code: 130}
	}
	return err
}

// logPrinter prints records; a time comes before each line, not in the middle
// of one that was logged in pieces.
type logPrinter struct {
	timestamps bool
	eager      bool             // do not hold lines back
	out        [2]*bufio.Writer // stdout, stderr
	begun      [2]bool          // a line of it has begun and not ended
	last       int
}

func (p *logPrinter) print(l monitor.Line) error {
	i := 0
	if l.Stderr {
		i = 1
	}
	if i != p.last { // keep the order where both are one terminal
		if err := p.out[p.last].Flush(); err != nil {
			return err
		}
		p.last = i
	}
	w := p.out[i]
	if p.timestamps && !p.begun[i] {
		// Docker's form: always nine digits, so that columns align.
		_, _ = w.WriteString(l.Time.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + " ")
	}
	p.begun[i] = len(l.Data) > 0 && l.Data[len(l.Data)-1] != '\n'
	_, err := w.Write(l.Data)
	if err == nil && p.eager {
		err = w.Flush()
	}
	return err
}

func (o logsFlags) options(now time.Time) (monitor.LogOptions, error) {
	lo := monitor.LogOptions{Follow: o.follow}
	if o.tail != "all" && o.tail != "" {
		n, err := strconv.Atoi(o.tail)
		switch {
		case err != nil:
			return lo, fmt.Errorf("--tail %q is neither a number nor \"all\"", o.tail)
		case n == 0:
			lo.Tail = -1
		case n > 0:
			lo.Tail = n
		}
	}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"--since", o.since, &lo.Since}, {"--until", o.until, &lo.Until}} {
		if t.text == "" {
			continue
		}
		var err error
		if *t.to, err = parseTime(t.text, now); err != nil {
			return lo, fmt.Errorf("%s: %w", t.flag, err)
		}
	}
	return lo, nil
}

// parseTime reads docker's times: RFC 3339 with or without zone and fraction
// (without one it is local), a date, seconds since 1970 with up to nine
// decimals, or a duration before now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	sec, frac, _ := strings.Cut(s, ".")
	if n, err := strconv.ParseInt(sec, 10, 64); err == nil && len(frac) <= 9 {
		ns, err := strconv.ParseUint((frac + "000000000")[:9], 10, 63)
		if err == nil {
			return time.Unix(n, int64(ns)), nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, form := range []string{"2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time: use 2026-01-31T12:00:00, seconds since 1970, or a duration as 10m", s)
}
