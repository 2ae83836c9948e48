// Package netns gives containers a network.
package netns
