// Package pull pulls, pushes, lists and removes images.
package pull
