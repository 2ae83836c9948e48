// Package store keeps the engine's state in one bbolt file and opens containers/storage.
package store
