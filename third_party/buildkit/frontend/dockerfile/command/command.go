// Package command takes the place of the package of this name of
// github.com/moby/buildkit: the instructions that can have heredocs.
package command

// Instructions of a Dockerfile.
const (
	Add  = "add"
	Copy = "copy"
	Run  = "run"
)
