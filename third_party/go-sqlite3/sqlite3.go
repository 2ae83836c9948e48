// Package sqlite3 takes the place of github.com/mattn/go-sqlite3, which
// containers/image imports for its blob-info cache. It registers no driver, at
// which containers/image takes its cache in memory.
//
// Lost: between one command and the next, in which repositories a layer was
// seen, and which compressed layer belongs to which uncompressed one: a push
// may upload a layer that it could have mounted from another repository.
package sqlite3
