// Package parser takes the place of the package of this name of
// tags.cncf.io/container-device-interface.
package parser

import "strings"

// IsQualifiedName tells whether a device is named VENDOR/CLASS=NAME rather than
// by the path of its file.
func IsQualifiedName(device string) bool {
	kind, name, ok := strings.Cut(device, "=")
	vendor, class, slash := strings.Cut(kind, "/")
	return ok && slash && vendor != "" && class != "" && name != "" && !strings.Contains(class, "/")
}
