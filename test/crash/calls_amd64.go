package main

import "golang.org/x/sys/unix"

// calls are the system calls after which it matters whether the power fails.
var calls = []call{
	{unix.SYS_RENAME, "rename"}, {unix.SYS_RENAMEAT, "renameat"}, {unix.SYS_RENAMEAT2, "renameat2"},
	{unix.SYS_FSYNC, "fsync"}, {unix.SYS_FDATASYNC, "fdatasync"}, {unix.SYS_SYNCFS, "syncfs"}, {unix.SYS_SYNC, "sync"},
	{unix.SYS_PWRITE64, "pwrite64"}, {unix.SYS_FTRUNCATE, "ftruncate"},
	{unix.SYS_MKDIR, "mkdir"}, {unix.SYS_MKDIRAT, "mkdirat"}, {unix.SYS_RMDIR, "rmdir"},
	{unix.SYS_UNLINK, "unlink"}, {unix.SYS_UNLINKAT, "unlinkat"}, {unix.SYS_LINK, "link"}, {unix.SYS_LINKAT, "linkat"},
	{unix.SYS_SYMLINK, "symlink"}, {unix.SYS_SYMLINKAT, "symlinkat"},
}
