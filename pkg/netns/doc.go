// Package netns gives containers a network: none, the host's, or one of their
// own with outbound access and published ports.
//
// A network namespace is held as an open file, never as a mount: the command
// that starts a container passes it to the container's monitor, and when the
// monitor and the container's processes are gone the kernel drops the
// namespace with everything inside. What the kernel does not drop (address
// leases, firewall rules, the helper process of an unprivileged user) carries
// the container's ID and goes away with [Teardown], or with [Sweep] when
// nothing was left to call Teardown. docs/networking.md describes addresses,
// rules and helpers.
package netns
