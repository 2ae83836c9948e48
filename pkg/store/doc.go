// Package store keeps the engine's own state in one bbolt file under the
// storage root and opens containers/storage, which holds layers and images.
//
// Nothing here stays locked: View and Update open the database, run one short
// transaction and close it again, so that any number of invocations work side
// by side. The layout of buckets, keys and values is described in
// docs/store.md.
package store
