// Package mergo takes the place of dario.cat/mergo, with which containers/image
// merges OpenShift's configuration files for its atomic: transport.
//
// Lost: that transport.
package mergo

import "errors"

// ErrNotSupported is what MergeWithOverwrite returns.
var ErrNotSupported = errors.New("atomic: is not supported by balena; use docker:// with the registry's address")

// MergeWithOverwrite returns ErrNotSupported.
func MergeWithOverwrite(_, _ any, _ ...func(*struct{})) error { return ErrNotSupported }
