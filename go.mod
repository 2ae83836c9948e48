module github.com/balena-os/balena

go 1.26.0

require (
	github.com/balena-os/librsync-go v0.9.0
	github.com/containerd/console v1.0.5
	github.com/cyphar/filepath-securejoin v0.7.0
	github.com/docker/distribution v2.8.3+incompatible
	github.com/docker/docker-credential-helpers v0.9.8
	github.com/docker/go-units v0.5.0
	github.com/google/nftables v0.3.0
	github.com/klauspost/compress v1.19.1
	github.com/klauspost/pgzip v1.2.6
	github.com/mdlayher/netlink v1.7.3-0.20250113171957-fbb4dce95f42
	github.com/moby/sys/capability v0.4.0
	github.com/moby/sys/devices v0.1.0
	github.com/moby/sys/signal v0.7.1
	github.com/moby/sys/user v0.4.1
	github.com/moby/sys/userns v0.2.1
	github.com/moby/term v0.5.2
	github.com/opencontainers/cgroups v0.1.0
	github.com/opencontainers/go-digest v1.0.0
	github.com/opencontainers/image-spec v1.1.1
	github.com/opencontainers/runc v1.5.2
	github.com/opencontainers/runtime-spec v1.3.0
	github.com/opencontainers/selinux v1.15.1
	github.com/openshift/imagebuilder v1.2.21
	github.com/rootless-containers/rootlesskit/v3 v3.3.0
	github.com/seccomp/libseccomp-golang v0.12.0
	github.com/sirupsen/logrus v1.10.2
	github.com/spf13/cobra v1.10.2
	github.com/spf13/pflag v1.0.10
	github.com/vbatts/tar-split v0.12.3
	github.com/vishvananda/netlink v1.3.1
	go.etcd.io/bbolt v1.5.0
	go.podman.io/buildah v1.45.0
	go.podman.io/common v0.69.0
	go.podman.io/image/v5 v5.41.2
	go.podman.io/storage v1.64.2
	golang.org/x/sys v0.49.0
)

require (
	cyphar.com/go-pathrs v0.2.6 // indirect
	dario.cat/mergo v1.0.2 // indirect
	github.com/Azure/go-ansiterm v0.0.0-20250102033503-faa5f7b0171c // indirect
	github.com/BurntSushi/toml v1.6.0 // indirect
	github.com/ProtonMail/go-crypto v1.4.1 // indirect
	github.com/aperturerobotics/protobuf-go-lite v0.15.0 // indirect
	github.com/balena-os/circbuf v0.1.3 // indirect
	github.com/checkpoint-restore/go-criu/v8 v8.4.0 // indirect
	github.com/cilium/ebpf v0.17.3 // indirect
	github.com/containerd/errdefs v1.0.0 // indirect
	github.com/containerd/log v0.1.0 // indirect
	github.com/containerd/platforms v1.0.0-rc.4 // indirect
	github.com/containerd/stargz-snapshotter/estargz v0.18.2 // indirect
	github.com/containernetworking/plugins v1.9.1 // indirect
	github.com/containers/libtrust v0.0.0-20230121012942-c1716e8a8d01 // indirect
	github.com/containers/luksy v0.0.0-20251208191447-ca096313c38f // indirect
	github.com/containers/ocicrypt v1.3.2 // indirect
	github.com/coreos/go-systemd/v22 v22.7.0 // indirect
	github.com/cpuguy83/go-md2man/v2 v2.0.7 // indirect
	github.com/cyberphone/json-canonicalization v0.0.0-20241213102144-19d51d7fe467 // indirect
	github.com/davecgh/go-spew v1.1.2-0.20180830191138-d8f796af33cc // indirect
	github.com/disiqueira/gotree/v3 v3.0.2 // indirect
	github.com/docker/go-connections v0.8.1 // indirect
	github.com/fsnotify/fsnotify v1.10.1 // indirect
	github.com/fsouza/go-dockerclient v1.13.2 // indirect
	github.com/godbus/dbus/v5 v5.2.2 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/google/go-intervals v0.0.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/hashicorp/errwrap v1.1.0 // indirect
	github.com/hashicorp/go-multierror v1.1.1 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/jinzhu/copier v0.4.0 // indirect
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/manifoldco/promptui v0.9.0 // indirect
	github.com/mattn/go-shellwords v1.0.14 // indirect
	github.com/mattn/go-sqlite3 v1.14.48 // indirect
	github.com/mdlayher/socket v0.5.1 // indirect
	github.com/mistifyio/go-zfs/v4 v4.0.0 // indirect
	github.com/moby/buildkit v0.31.2 // indirect
	github.com/moby/moby/api v1.55.0 // indirect
	github.com/moby/moby/client v0.5.1 // indirect
	github.com/moby/sys/mountinfo v0.7.2 // indirect
	github.com/mrunalp/fileutils v0.5.1 // indirect
	github.com/opencontainers/runtime-tools v0.9.1-0.20260316125833-8a4db579f5c8 // indirect
	github.com/pmezard/go-difflib v1.0.1-0.20181226105442-5d4384ee4fb2 // indirect
	github.com/proglottis/gpgme v0.1.6 // indirect
	github.com/russross/blackfriday/v2 v2.1.0 // indirect
	github.com/secure-systems-lab/go-securesystemslib v0.11.0 // indirect
	github.com/sigstore/fulcio v1.8.7 // indirect
	github.com/sigstore/sigstore v1.10.8 // indirect
	github.com/sylabs/sif/v2 v2.24.1 // indirect
	github.com/tchap/go-patricia/v2 v2.3.3 // indirect
	github.com/tonistiigi/dchapes-mode v0.0.0-20250318174251-73d941a28323 // indirect
	github.com/ulikunitz/xz v0.5.16 // indirect
	github.com/vbauerster/mpb/v8 v8.14.0 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.23.0 // indirect
	golang.org/x/term v0.46.0 // indirect
	golang.org/x/tools v0.49.0 // indirect
	tags.cncf.io/container-device-interface v1.1.0 // indirect
)

// Small modules of ours in the place of large ones: docs/size.md has what each
// saves and what a user loses.
replace (
	// OpenShift's configuration files: atomic:.
	dario.cat/mergo => ./third_party/mergo
	// OpenPGP: GPG signatures.
	github.com/ProtonMail/go-crypto => ./third_party/go-crypto
	// debug/elf, for the twenty instructions of the device filter.
	github.com/cilium/ebpf => ./third_party/ebpf
	// LUKS: confidential workloads.
	github.com/containers/luksy => ./third_party/luksy
	// gRPC, protobuf, dlopen: encrypted images.
	github.com/containers/ocicrypt => ./third_party/ocicrypt
	// Debug logs of what OCI hooks change.
	github.com/davecgh/go-spew => ./third_party/go-spew
	// Routes of the registry API; its error codes stay.
	github.com/docker/distribution => ./third_party/distribution
	// Waiting for files, which nothing here does.
	github.com/fsnotify/fsnotify => ./third_party/fsnotify
	// Another; the types of an image's configuration stay.
	github.com/fsouza/go-dockerclient => ./third_party/go-dockerclient
	// Copies by the names of methods, which switches dead-code elimination off.
	github.com/jinzhu/copier => ./third_party/copier
	// A second JSON codec beside that of the standard library.
	github.com/json-iterator/go => ./third_party/json-iterator
	// text/template, which switches the linker's dead-code elimination off.
	github.com/manifoldco/promptui => ./third_party/promptui
	// SQLite in C: the blob-info cache is in memory instead.
	github.com/mattn/go-sqlite3 => ./third_party/go-sqlite3
	// protobuf, for stack traces; heredocs and the shell's expansions stay.
	github.com/moby/buildkit => ./third_party/buildkit
	// A client of docker's daemon, with OpenTelemetry: docker-daemon:.
	github.com/moby/moby/client => ./third_party/moby-client
	// Regular expressions, compiled at every start.
	github.com/opencontainers/go-digest => ./third_party/go-digest
	github.com/pmezard/go-difflib => ./third_party/go-difflib
	// Compiles the same seccomp filter at each start (12 ms).
	github.com/seccomp/libseccomp-golang => ./third_party/libseccomp-golang
	// A registry of algorithms in protobuf; signing and verifying stay.
	github.com/sigstore/sigstore => ./third_party/sigstore
	// Singularity's images.
	github.com/sylabs/sif/v2 => ./third_party/sif
	// Progress bars that are not drawn, and 18 ms at every start.
	github.com/vbauerster/mpb/v8 => ./third_party/mpb
	// All of YAML, for the mappings of registries.d.
	go.yaml.in/yaml/v3 => ./third_party/yaml
	// Devices that a vendor describes in YAML.
	tags.cncf.io/container-device-interface => ./third_party/cdi
)
