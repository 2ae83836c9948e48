// Package sif takes the place of the package of this name of
// github.com/sylabs/sif, with which containers/image reads Singularity's images.
//
// Lost: the sif: transport.
package sif

import (
	"errors"
	"io"
	"time"
)

// ErrNotSupported is what every function returns.
var ErrNotSupported = errors.New("Singularity images are not supported by balena")

// DataType is a kind of content.
type DataType int

// PartType is a kind of partition.
type PartType int

// What containers/image looks for.
const (
	DataDeffile DataType = iota
	PartPrimSys PartType = iota
)

// FileImage would be an open image.
type FileImage struct{}

// Descriptor would be a part of an image.
type Descriptor struct{}

// DescriptorSelectorFunc would select one.
type DescriptorSelectorFunc func()

// LoadOpt is an option of LoadContainerFromPath.
type LoadOpt func()

// OptLoadWithFlag would set the flags of open(2).
func OptLoadWithFlag(int) LoadOpt { return func() {} }

// WithDataType would select by kind.
func WithDataType(DataType) DescriptorSelectorFunc { return func() {} }

// WithPartitionType would select by kind.
func WithPartitionType(PartType) DescriptorSelectorFunc { return func() {} }

// LoadContainerFromPath returns ErrNotSupported.
func LoadContainerFromPath(string, ...LoadOpt) (*FileImage, error) { return nil, ErrNotSupported }

// GetDescriptor returns ErrNotSupported.
func (*FileImage) GetDescriptor(...DescriptorSelectorFunc) (Descriptor, error) {
	return Descriptor{}, ErrNotSupported
}

// UnloadContainer does nothing.
func (*FileImage) UnloadContainer() error { return nil }

// ModifiedAt would be the image's time.
func (*FileImage) ModifiedAt() time.Time { return time.Time{} }

// PrimaryArch would be the image's architecture.
func (*FileImage) PrimaryArch() string { return "" }

// ID would be the image's.
func (*FileImage) ID() string { return "" }

// Size would be the part's.
func (Descriptor) Size() int64 { return 0 }

// GetReader gives a reader that fails with ErrNotSupported.
func (Descriptor) GetReader() io.Reader { return failing{} }

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, ErrNotSupported }
