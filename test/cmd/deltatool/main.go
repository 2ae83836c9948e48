// Command deltatool makes and applies deltas between layer tars, and says what
// that took. test/bench/delta/run uses it.
//
//	deltatool create [-level N] OUT BASE.tar[,BASE2.tar...] TARGET.tar[,...]
//	deltatool apply DELTA BASE-FOLDER|BASE.tar[,...]
//	deltatool layer UPPER OUT.tar
//
// layer packs the upper folder of an overlay as the engine's storage does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage/pkg/archive"

	"github.com/balena-os/balena/pkg/delta"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "deltatool:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	fl := flag.NewFlagSet("deltatool", flag.ContinueOnError)
	level := fl.Int("level", 0, "")
	if len(args) == 0 {
		return errors.New("create or apply?")
	}
	if err := fl.Parse(args[1:]); err != nil {
		return err
	}
	start := time.Now()
	res := map[string]any{}
	var err error
	switch a := fl.Args(); {
	case args[0] == "create" && len(a) == 3:
		err = create(res, *level, a[0], a[1], a[2])
	case args[0] == "apply" && len(a) >= 2:
		err = apply(res, a[0], a[1])
	case args[0] == "layer" && len(a) == 2:
		return layer(a[0], a[1])
	default:
		err = errors.New("create, apply or layer?")
	}
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	res["seconds"] = time.Since(start).Seconds()
	res["cpu"] = time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
	res["rss_mb"] = float64(ru.Maxrss) / 1024
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(res)
	}
	return err
}

func layers(list string, hash bool) ([]delta.LayerTar, error) {
	var out []delta.LayerTar
	for _, p := range strings.Split(list, ",") {
		l := delta.LayerTar{Open: func(context.Context) (io.ReadCloser, error) { return os.Open(p) }}
		if hash {
			f, err := os.Open(p)
			if err != nil {
				return nil, err
			}
			if l.DiffID, err = digest.FromReader(f); err != nil {
				return nil, err
			}
			f.Close()
		}
		out = append(out, l)
	}
	return out, nil
}

func source(list string) (delta.FileSource, error) {
	if st, err := os.Stat(list); err == nil && st.IsDir() {
		return delta.OpenDir(list)
	}
	ls, err := layers(list, false)
	if err != nil {
		return nil, err
	}
	return delta.NewTarSource(context.Background(), ls, "")
}

func create(res map[string]any, level int, out, base, target string) error {
	src, err := source(base)
	if err != nil {
		return err
	}
	tars, err := layers(target, true)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	sum, err := delta.Create(context.Background(), src, tars, f, delta.Options{Level: level})
	res["summary"] = sum
	return errors.Join(err, f.Close())
}

func apply(res map[string]any, in, base string) error {
	debug.SetGCPercent(20) // as on a device
	src, err := source(base)
	if err != nil {
		return err
	}
	f, err := os.Open(in)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := delta.Open(f, src)
	if err != nil {
		return err
	}
	var total int64
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			res["bytes"] = total
			return nil
		} else if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, r)
		if total += n; err != nil {
			return err
		}
	}
}

func layer(dir, out string) error {
	r, err := archive.TarWithOptions(dir, &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat})
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
