//go:build deps

// Keeps the requirements of go.mod while packages are written.
package main

import (
	_ "github.com/cyphar/filepath-securejoin"
	_ "github.com/google/nftables"
	_ "github.com/moby/term"
	_ "github.com/opencontainers/cgroups/devices"
	_ "github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	_ "github.com/opencontainers/runc/libcontainer/specconv"
	_ "github.com/rootless-containers/rootlesskit/v3/pkg/network/pasta"
	_ "github.com/rootless-containers/rootlesskit/v3/pkg/network/slirp4netns"
	_ "github.com/rootless-containers/rootlesskit/v3/pkg/port/builtin"
	_ "github.com/spf13/cobra"
	_ "github.com/spf13/cobra/doc"
	_ "github.com/vishvananda/netlink"
	_ "go.etcd.io/bbolt"
	_ "go.podman.io/common/pkg/auth"
	_ "go.podman.io/common/pkg/seccomp"
	_ "go.podman.io/image/v5/copy"
	_ "go.podman.io/image/v5/directory"
	_ "go.podman.io/image/v5/docker"
	_ "go.podman.io/image/v5/docker/archive"
	_ "go.podman.io/image/v5/oci/archive"
	_ "go.podman.io/image/v5/oci/layout"
	_ "go.podman.io/image/v5/pkg/shortnames"
	_ "go.podman.io/image/v5/storage"
	_ "go.podman.io/storage"
	_ "go.podman.io/storage/drivers"
	_ "go.podman.io/storage/drivers/overlay"
	_ "go.podman.io/storage/drivers/vfs"
)
