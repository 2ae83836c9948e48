package build

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Output is where the result of a build goes to.
type Output struct {
	Type   string   // "local" (a folder of its files), "tar" (of them), "oci", "docker" (archives of the image) or "image" (the store)
	Dest   string   // a path, or - for stdout
	Folder bool     // oci: an OCI layout in a folder instead of an archive
	Names  []string // image: more names
	Push   bool     // image: send it to its registry
}

// ParseOutput reads --output: a folder, "-" for a tar archive on stdout, or
// type=TYPE,KEY=VALUE…, as buildx has it. ErrOptions.
func ParseOutput(s string) (Output, error) {
	bad := func(format string, a ...any) (Output, error) {
		return Output{}, fmt.Errorf("%w: output %q: %s", ErrOptions, s, fmt.Sprintf(format, a...))
	}
	if s == "-" {
		return Output{Type: "tar", Dest: "-"}, nil
	}
	if !strings.Contains(s, "=") && s != "" {
		return Output{Type: "local", Dest: s}, nil
	}
	var o Output
	for field := range strings.SplitSeq(s, ",") {
		key, val, _ := strings.Cut(field, "=")
		switch key {
		case "type":
			o.Type = val
		case "dest":
			o.Dest = val
		case "name":
			o.Names = append(o.Names, val)
		case "push", "tar":
			on, err := strconv.ParseBool(val)
			if err != nil {
				return bad("%s is true or false", key)
			}
			if key == "push" {
				o.Push = on
			} else {
				o.Folder = !on
			}
		case "compression", "compression-level", "force-compression", "oci-mediatypes", "store", "unpack":
			// of BuildKit's own store
		default:
			return bad("there is no key %q", key)
		}
	}
	switch o.Type {
	case "registry":
		o.Type, o.Push = "image", true
	case "cacheonly":
		o.Type = "image"
	case "oci":
		if o.Dest == "" {
			o.Dest = "-"
		}
	case "docker":
		if o.Dest == "" { // as buildx: into the store
			o.Type = "image"
		}
	case "image":
	case "local", "tar":
		if o.Dest == "" {
			return bad("where to? dest=PATH")
		}
	default:
		return bad("the type is local, tar, oci, docker, image or registry")
	}
	if o.Folder && (o.Type != "oci" || o.Dest == "-") {
		return bad("only type=oci goes to a folder")
	}
	return o, nil
}

// Stdout tells whether a result goes there.
func (o *Options) Stdout() bool {
	return slices.ContainsFunc(o.Outputs, func(out Output) bool { return out.Dest == "-" })
}

// outputs are those that buildah makes: of files. With several platforms each
// gets a folder of its own, as with buildx.
func (b *builder) outputs() []string {
	var list []string
	for _, o := range b.o.Outputs {
		dest := o.Dest
		switch {
		case o.Type == "local" && len(b.o.Platforms) > 1:
			dest += "/" + strings.ReplaceAll(b.platform, "/", "_")
			fallthrough
		case o.Type == "local", o.Type == "tar":
			list = append(list, "type="+o.Type+",dest="+dest)
		}
	}
	return list
}
