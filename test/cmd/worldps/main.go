// Worldps prints the pids of the processes that belong to one test file's
// world: the engine's, by a variable in their environment, and containers', by
// a mount of the file's in a mount namespace of their own.
//
//	worldps NAME=VALUE FOLDER...
//
// The holder of a rootless user's namespaces leaves by itself some seconds
// after its last client, and is not counted.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: worldps NAME=VALUE FOLDER...")
		os.Exit(2)
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if belongs(d, own, os.Args[1], os.Args[2:]) {
			fmt.Println(filepath.Base(d))
		}
	}
}

func belongs(dir, own, variable string, folders []string) bool {
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return false
	}
	exe = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	if exe == "balena" || strings.HasPrefix(exe, "memfd:") {
		env, _ := os.ReadFile(dir + "/environ")
		args, _ := os.ReadFile(dir + "/cmdline")
		return bytes.Contains(append(append([]byte{0}, env...), 0), []byte("\x00"+variable+"\x00")) &&
			!bytes.HasPrefix(args, []byte("balena-userns"))
	}
	if ns, err := os.Readlink(dir + "/ns/mnt"); err != nil || ns == own {
		return false
	}
	mounts, _ := os.ReadFile(dir + "/mountinfo")
	for _, f := range folders {
		if bytes.Contains(mounts, []byte(f)) {
			return true
		}
	}
	return false
}
