package run

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/balena-os/balena/pkg/store"
)

// Filters choose containers: those that fit one value of every key.
type Filters struct {
	byKey map[string][]func(*Observed) bool
}

// AnyState tells whether the filters ask for states, so that not only running
// containers are meant.
func (f Filters) AnyState() bool { return f.byKey["status"] != nil || f.byKey["exited"] != nil }

// Match tells whether a container fits.
func (f Filters) Match(c *Observed) bool {
	for _, tests := range f.byKey {
		if !slices.ContainsFunc(tests, func(t func(*Observed) bool) bool { return t(c) }) {
			return false
		}
	}
	return true
}

// ParseFilters reads docker's KEY=VALUE filters of ps. all are the containers
// that before and since refer to. ErrOptions.
func ParseFilters(specs []string, all []*Observed) (Filters, error) {
	f := Filters{byKey: map[string][]func(*Observed) bool{}}
	for _, s := range specs {
		key, val, ok := strings.Cut(s, "=")
		if !ok {
			return f, fmt.Errorf("%w: invalid filter '%s': want KEY=VALUE", ErrOptions, s)
		}
		test, err := filter(key, val, all)
		if err != nil {
			return f, err
		}
		f.byKey[key] = append(f.byKey[key], test)
	}
	return f, nil
}

func filter(key, val string, all []*Observed) (func(*Observed) bool, error) {
	switch key {
	case "id":
		return func(c *Observed) bool { return strings.HasPrefix(c.ID, val) }, nil
	case "name":
		re, err := regexp.Compile(val)
		if err != nil {
			return nil, fmt.Errorf("%w: filter name: %w", ErrOptions, err)
		}
		return func(c *Observed) bool { return re.MatchString(c.Name) }, nil
	case "until":
		before, err := parseUntil(val, time.Now())
		if err != nil {
			return nil, err
		}
		return func(c *Observed) bool { return c.Created.Before(before) }, nil
	case "label":
		k, v, hasValue := strings.Cut(val, "=")
		return func(c *Observed) bool {
			got, ok := c.Config.Labels[k]
			return ok && (!hasValue || got == v)
		}, nil
	case "status":
		known := []store.Status{store.StatusCreated, store.StatusRunning, store.StatusPaused, store.StatusRestarting, store.StatusExited}
		if !slices.Contains(known, store.Status(val)) {
			return nil, fmt.Errorf("%w: filter status: %q is none of created, running, paused, restarting, exited", ErrOptions, val)
		}
		return func(c *Observed) bool { return c.State.Status == store.Status(val) }, nil
	case "exited":
		code, err := strconv.Atoi(val)
		if err != nil {
			return nil, fmt.Errorf("%w: filter exited: %q is not an exit code", ErrOptions, val)
		}
		return func(c *Observed) bool { return c.State.Status == store.StatusExited && c.State.ExitCode == code }, nil
	case "ancestor":
		return func(c *Observed) bool {
			id := strings.TrimPrefix(val, "sha256:")
			return c.Image == val || strings.TrimSuffix(c.Image, ":latest") == val || len(id) >= 4 && strings.HasPrefix(c.ImageID, id)
		}, nil
	case "before", "since":
		i := slices.IndexFunc(all, func(c *Observed) bool { return c.Name == val || strings.HasPrefix(c.ID, val) })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", store.ErrNoContainer, val)
		}
		at := all[i].Created
		if key == "before" {
			return func(c *Observed) bool { return c.Created.Before(at) }, nil
		}
		return func(c *Observed) bool { return c.Created.After(at) }, nil
	case "volume":
		return func(c *Observed) bool {
			return slices.ContainsFunc(c.Config.Mounts, func(m store.Mount) bool { return m.Source == val || m.Target == path.Clean(val) })
		}, nil
	case "publish", "expose":
		return func(c *Observed) bool {
			for _, p := range publishedPorts(&c.Config) {
				if portIs(val, p.ContainerPort, p.Protocol) {
					return true
				}
			}
			return key == "expose" && slices.ContainsFunc(c.Config.Ports, func(p string) bool { return p == val || strings.TrimSuffix(p, "/tcp") == val })
		}, nil
	default:
		return nil, fmt.Errorf("%w: invalid filter '%s'", ErrOptions, key)
	}
}

// portIs compares PORT[/PROTO].
func portIs(val string, port uint16, proto string) bool {
	num, p, _ := strings.Cut(val, "/")
	return num == strconv.Itoa(int(port)) && (p == "" || p == proto)
}

// parseUntil reads docker's until: how long ago (24h), a time as RFC 3339 or
// seconds since 1970.
func parseUntil(val string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(val); err == nil {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, val); err == nil {
		return t, nil
	}
	if n, err := strconv.ParseInt(val, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	return time.Time{}, fmt.Errorf("%w: filter until: %q is neither a duration nor a time", ErrOptions, val)
}
