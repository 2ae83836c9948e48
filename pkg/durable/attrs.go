package durable

import (
	_ "unsafe" // for go:linkname

	_ "go.podman.io/storage/pkg/archive"
)

// ignoredAttrs is containers/storage's list of extended attributes that the
// unpacker does not set. It has no other way to be told.
//
//go:linkname ignoredAttrs go.podman.io/storage/pkg/archive.xattrsToIgnore
var ignoredAttrs map[string]any

// Overlayfs keeps its own notes in these attributes. A layer's tar that has
// them could hide what is below without a whiteout, show a folder in another's
// place or a file with another's content. The image's files are what its tars
// say, with any driver: so they are left out, in each namespace that overlayfs
// uses.
func init() {
	for _, name := range []string{
		"opaque", "redirect", "origin", "impure", "nlink", "upper", "uuid", "metacopy", "protattr", "xwhiteouts", "whiteout", "verity",
	} {
		ignoredAttrs["trusted.overlay."+name] = true
		ignoredAttrs["user.overlay."+name] = true
	}
}
