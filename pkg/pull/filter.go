package pull

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage"
)

// ErrBadFilter is for a filter that is not KEY=VALUE with a key out of
// dangling (true or false), reference (a pattern), before and since (an image),
// until (a time or an age), label and label! (KEY or KEY=VALUE), id.
var ErrBadFilter = errors.New("invalid filter")

// imageFilter decides about one image, or about one of its names.
type imageFilter struct {
	image func(*candidate) (bool, error)
	name  func(string) bool // leaves the names that pass; no name, no image
}

// candidate is an image on its way through filters.
type candidate struct {
	Summary
	layers storage.Store
	set    *imageSet
	config *imageConfig
}

// labels reads the configuration, so filters by label come last.
func (c *candidate) labels() (map[string]string, error) {
	if c.config == nil {
		cfg, err := readConfig(c.layers, c.ID)
		if err != nil {
			return nil, err
		}
		c.config = cfg
	}
	return c.config.Config.Labels, nil
}

// filterSet holds filters by key: those with the same key are alternatives,
// but for labels, which must all be there.
type filterSet map[string][]imageFilter

func (c *candidate) passes(set filterSet) (bool, error) {
	keys := []string{"dangling", "id", "reference", "before", "since", "until", "label", "label!"}
	for _, key := range keys {
		filters := set[key]
		if len(filters) == 0 {
			continue
		}
		if key == "reference" {
			if !c.named(filters) {
				return false, nil
			}
			continue
		}
		all := strings.HasPrefix(key, "label")
		ok := all
		for _, f := range filters {
			yes, err := f.image(c)
			if err != nil {
				return false, err
			}
			if yes != all {
				ok = yes
				break
			}
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// named leaves the image only the names that a pattern fits, and tells whether
// any is left.
func (c *candidate) named(patterns []imageFilter) bool {
	c.Names = slices.DeleteFunc(slices.Clone(c.Names), func(n string) bool {
		return !slices.ContainsFunc(patterns, func(p imageFilter) bool { return p.name(n) })
	})
	return len(c.Names) > 0
}

func parseFilters(filters []string, all *imageSet) (filterSet, error) {
	set := filterSet{}
	for _, text := range filters {
		key, value, ok := strings.Cut(text, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("%w %q: it is not KEY=VALUE", ErrBadFilter, text)
		}
		f, err := parseFilter(key, value, all)
		if err != nil {
			return nil, fmt.Errorf("%w %q: %w", ErrBadFilter, text, err)
		}
		set[key] = append(set[key], f)
	}
	return set, nil
}

func parseFilter(key, value string, all *imageSet) (imageFilter, error) {
	switch key {
	case "dangling":
		want, err := strconv.ParseBool(value)
		if err != nil {
			return imageFilter{}, errors.New("dangling is true or false")
		}
		return onImage(func(i *Summary) bool { return (len(i.Names) == 0) == want }), nil
	case "id":
		id := strings.TrimPrefix(value, "sha256:")
		return onImage(func(i *Summary) bool { return strings.HasPrefix(i.ID, id) }), nil
	case "reference":
		return referenceFilter(value)
	case "before", "since":
		img, _, err := all.find(value)
		if err != nil {
			return imageFilter{}, err
		}
		t := img.Created
		if key == "before" {
			return onImage(func(i *Summary) bool { return i.Created.Before(t) }), nil
		}
		return onImage(func(i *Summary) bool { return i.Created.After(t) }), nil
	case "until":
		t, err := parseUntil(value, time.Now())
		if err != nil {
			return imageFilter{}, err
		}
		return onImage(func(i *Summary) bool { return i.Created.Before(t) }), nil
	case "label", "label!":
		k, v, exact := strings.Cut(value, "=")
		return imageFilter{image: func(c *candidate) (bool, error) {
			labels, err := c.labels()
			if err != nil {
				return false, err
			}
			have, ok := labels[k]
			return (ok && (!exact || have == v)) == (key == "label"), nil
		}}, nil
	}
	return imageFilter{}, fmt.Errorf("unknown key %q", key)
}

func onImage(f func(*Summary) bool) imageFilter {
	return imageFilter{image: func(c *candidate) (bool, error) { return f(&c.Summary), nil }}
}

// referenceFilter fits REPOSITORY or REPOSITORY:TAG, each with shell patterns,
// in docker's short form of names or in full; a repository alone fits all of
// its tags.
func referenceFilter(pattern string) (imageFilter, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return imageFilter{}, fmt.Errorf("%w reference=%q: malformed pattern", ErrBadFilter, pattern)
	}
	patterns := []string{pattern}
	wild := strings.ContainsAny(pattern, "*?[\\")
	if !wild {
		// As the same name would be read anywhere else.
		if named, err := reference.ParseNormalizedNamed(pattern); err == nil {
			patterns = append(patterns, named.String())
		}
		if isShort(pattern) {
			patterns = append(patterns, "localhost/"+pattern)
		}
	}
	return imageFilter{name: func(name string) bool {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return false
		}
		forms := []string{named.String(), named.Name(), reference.FamiliarString(named), reference.FamiliarName(named)}
		if wild { // * does not cross a slash, so try what comes after each, too
			for _, f := range []string{named.String(), named.Name()} {
				for i, c := range f {
					if c == '/' {
						forms = append(forms, f[i+1:])
					}
				}
			}
		}
		for _, p := range patterns {
			for _, f := range forms {
				if ok, _ := path.Match(p, f); ok {
					return true
				}
			}
		}
		return false
	}}, nil
}

// parseUntil reads a time (RFC 3339, without zone or time of day too), seconds
// since 1970 or an age (10m, 1h30m).
func parseUntil(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if sec, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Unix(0, int64(sec*1e9)), nil
	}
	return time.Time{}, fmt.Errorf("%q is neither a time nor an age", s)
}
