// Package durable is the one place that knows how bytes reach the disk.
package durable
