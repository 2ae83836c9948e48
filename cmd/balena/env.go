package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/docker/go-units"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
	"github.com/balena-os/balena/pkg/userns"
)

// env is what every command gets: the standard streams, the global flags and
// the store that they name.
type env struct {
	stdin, stdout, stderr *os.File
	args                  []string // the whole command line
	uid                   int      // on the host: 0 is a rootful engine

	flags struct {
		store.Options
		logLevel      string
		cgroupManager string
		runtime       string
		runtimeFlags  []string
		memoryBudget  int64 // bytes; 0 is what there is
	}

	st *store.Store
}

// store opens the store that the global flags name, once.
func (e *env) store() (*store.Store, error) {
	if e.st != nil {
		return e.st, nil
	}
	o, err := e.storeOptions()
	if err != nil {
		return nil, err
	}
	e.st, err = store.Open(o)
	return e.st, err
}

func (e *env) storeOptions() (store.Options, error) {
	o := e.flags.Options
	def, err := store.DefaultOptions(e.uid, os.Getenv)
	if err != nil && (o.Root == "" || o.RunRoot == "") {
		return o, err
	}
	if o.Root == "" {
		o.Root = def.Root
	}
	if o.RunRoot == "" {
		o.RunRoot = def.RunRoot
	}
	for _, p := range []*string{&o.Root, &o.RunRoot, &o.TmpDir} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return o, err
		}
	}
	o.Warn = e.warn
	return o, nil
}

// limitMemory heeds --memory-budget or its variable, for the whole process and
// for those that it starts.
func (e *env) limitMemory() error {
	n := e.flags.memoryBudget
	if v := os.Getenv(pull.BudgetVariable); n == 0 && v != "" {
		var err error
		if n, err = units.RAMInBytes(v); err != nil || n <= 0 {
			return usageError{fmt.Errorf("%s: invalid size: '%s'", pull.BudgetVariable, v)}
		}
	}
	if n == 0 {
		return nil
	}
	if err := os.Setenv(pull.BudgetVariable, strconv.FormatInt(n, 10)); err != nil {
		return err
	}
	pull.LimitMemory()
	return nil
}

// enterUserns puts an unprivileged user's command into the user's namespace.
// It may execute the process anew, so nothing must have happened before.
func (e *env) enterUserns() error {
	if !userns.Rootless() || userns.Inside() {
		return nil
	}
	st, err := e.store()
	if err != nil {
		return err
	}
	return userns.Enter(st.RunRoot(), e.args)
}

func (e *env) warn(msg string) { fmt.Fprintln(e.stderr, "balena: warning: "+msg) }

func (e *env) close() {
	if e.st != nil {
		_ = e.st.Close()
	}
}
