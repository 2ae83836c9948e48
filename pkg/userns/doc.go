// Package userns gives an unprivileged user's commands the one user and mount
// namespace that they all share.
//
// A namespace lives as long as somebody is in it or holds it. Here that is the
// holder: the stage balena-userns, a loop in C that runs before the Go runtime
// starts and so costs a fraction of a megabyte. It listens on
// RUNROOT/userns.sock and hands its namespaces' descriptors to whoever of the
// same user connects; the connection kept open is the reference, and some
// seconds after the last one is gone the holder exits. Nothing is left on disk
// but a socket's name that the next holder replaces.
//
//	command (constructor, before Go)      holder
//	  connect RUNROOT/userns.sock   ─────▶ accept
//	  recvmsg                       ◀───── SCM_RIGHTS user, mnt
//	  setns user, setns mnt, chdir back
//	  … Go starts, as uid 0 of the namespace
//	  exit, connection closes       ─────▶ one reference fewer
//
// Where no holder answers, Enter starts one (newuidmap and newgidmap give it
// the user's subordinate IDs) and executes the command anew. A process that
// must outlive its command, as a monitor does, inherits Keep.
package userns
