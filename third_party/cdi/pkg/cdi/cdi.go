// Package cdi takes the place of the package of this name of
// tags.cncf.io/container-device-interface, with which buildah gives a build the
// devices that a vendor describes. The original brings two YAML parsers.
//
// Lost: devices named VENDOR/CLASS=NAME.
package cdi

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNotSupported is what InjectDevices returns.
var ErrNotSupported = errors.New("CDI devices are not supported by balena; name the device's file")

// Option is an option of Configure.
type Option func()

// WithSpecDirs would name the folders of descriptions.
func WithSpecDirs(...string) Option { return func() {} }

// Configure does nothing.
func Configure(...Option) error { return nil }

// Refresh does nothing.
func Refresh() error { return nil }

// InjectDevices returns ErrNotSupported.
func InjectDevices(_ *specs.Spec, devices ...string) ([]string, error) {
	return devices, fmt.Errorf("%w: %q", ErrNotSupported, devices)
}
