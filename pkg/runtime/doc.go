// Package runtime is the OCI runtime: it creates, starts, enters, signals and
// deletes containers from bundles (https://github.com/opencontainers/runtime-spec)
// by means of runc's libcontainer.
//
// A container is known by a state folder ("root", which should be on a tmpfs)
// and an ID in it; everything about it is read from there at each call, so
// that any process may ask about or act on a container that another one made.
// The same folder can be read by runc of the same libcontainer version.
//
// The package never prints and never ends the process. libcontainer itself
// logs warnings through logrus, whose output the caller decides.
//
// A container's first process and each exec'd one start as this very binary:
// main must call Init before anything else.
package runtime
