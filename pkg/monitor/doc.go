// Package monitor is the process that stays beside each container: it starts
// the container through the OCI runtime, holds its stdio or console, writes its
// log, serves attached clients, reaps it, records how it ended and starts it
// again where its restart policy says so. The same process, without log and
// record, stands beside `exec -t` and `exec -d`.
//
// Start, or Prepare some time before, is the side of the command that wants a
// container; Main is the balena-monitor stage, LaunchMain that of the process
// between it and the container while that starts. Attach, Wait and the other clients speak to a running
// monitor over its socket; ReadState tells what runs, also when the monitor was
// killed. docs/monitor.md draws the protocol.
package monitor
