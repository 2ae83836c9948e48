//go:build !amd64

package main

import "golang.org/x/sys/unix"

// calls are the system calls after which it matters whether the power fails.
var calls = []call{
	{unix.SYS_RENAMEAT2, "renameat2"}, {unix.SYS_FSYNC, "fsync"}, {unix.SYS_FDATASYNC, "fdatasync"},
	{unix.SYS_SYNCFS, "syncfs"}, {unix.SYS_SYNC, "sync"}, {unix.SYS_PWRITE64, "pwrite64"}, {unix.SYS_FTRUNCATE, "ftruncate"},
	{unix.SYS_MKDIRAT, "mkdirat"}, {unix.SYS_UNLINKAT, "unlinkat"}, {unix.SYS_LINKAT, "linkat"}, {unix.SYS_SYMLINKAT, "symlinkat"},
}
