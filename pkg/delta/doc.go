// Package delta makes and applies container deltas: what a device that has one
// image needs to download to have another.
//
// A delta carries the uncompressed tars of the target's layers, bit for bit, in
// terms of the files of the base image as they lie extracted on the device. The
// format is described in docs/delta-format.md; [Create] writes it, [Open] reads
// it in one stream and with bounded memory. Nothing in a delta is trusted: what
// comes out of it counts once the diffID of its layer is right, which the
// Reader checks.
package delta
