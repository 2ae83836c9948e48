// Package durable is the one place that knows how bytes reach the disk.
//
// A layer is staged: its tar stream is extracted by containers/storage's own
// unpacker while it arrives, its pages are written back early and dropped from
// the page cache once they are clean. Then it is committed: everything that
// belongs to it is on stable storage before layers.json calls it complete.
// docs/durability.md states the promise, docs/design/0002-durable-pull.md why
// it is kept this way.
package durable
