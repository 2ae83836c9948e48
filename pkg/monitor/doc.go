// Package monitor is the process that watches one container.
package monitor
