// Package delta creates, finds and applies container deltas.
package delta
