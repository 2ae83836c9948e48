// Package run creates, starts, watches and removes containers.
package run
