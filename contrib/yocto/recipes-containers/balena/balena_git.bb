SUMMARY = "Container engine for devices"
DESCRIPTION = "Pulls, builds and runs OCI and Docker containers, as root and as a user, without a daemon. \
A pull is durable: after a power cut an image is whole, or it is not there. Updates can travel as deltas."
HOMEPAGE = "https://github.com/balena-os/balena"
BUGTRACKER = "https://github.com/balena-os/balena/issues"
SECTION = "console/utils"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://src/${GO_IMPORT}/LICENSE;md5=435b266b3899aa8a959f17d41c56def8"

# libcontainer's entry into namespaces is C; seccomp's filters need the library.
DEPENDS = "libseccomp"

# The version that you ship: an exact commit.
SRC_URI = "git://${GO_IMPORT};protocol=https;branch=main;destsuffix=${BPN}-${PV}/src/${GO_IMPORT}"
SRCREV = "${AUTOREV}"
PV = "28.5-rev1+git"

GO_IMPORT = "github.com/balena-os/balena"
GO_INSTALL = "${GO_IMPORT}/cmd/balena"

inherit go-mod pkgconfig bash-completion

# go.mod's replacements are folders of the source; the other modules come through
# the module proxy, with go.sum's checksums.
do_compile[network] = "1"

BALENA_TAGS = "exclude_graphdriver_btrfs,exclude_graphdriver_zfs,containers_image_openpgp,grpcnotrace,osusergo,netgo,seccomp,nethttpomithttp2"
GOBUILDFLAGS:append = " -tags=${BALENA_TAGS}"
GO_EXTRA_LDFLAGS:append = " -s -w -X main.version=28.5-rev1 -X main.commit=${SRCPV}"

do_install:append() {
    for stage in balena-monitor balena-runc balena-init balena-netns; do
        ln -sf balena ${D}${bindir}/$stage
    done
    install -d ${D}${mandir}/man1
    install -m 0644 ${S}/src/${GO_IMPORT}/docs/man/*.1 ${D}${mandir}/man1/
    install -D -m 0644 ${S}/src/${GO_IMPORT}/docs/completion/balena.bash ${D}${datadir}/bash-completion/completions/balena
}

# What an image needs to run containers: overlayfs and seccomp in the kernel and,
# for networks, the rest. A user's containers: the first four.
RDEPENDS:${PN} = "ca-certificates"
RRECOMMENDS:${PN} = "\
    shadow \
    slirp4netns \
    fuse-overlayfs \
    kernel-module-tun \
    kernel-module-overlay \
    kernel-module-veth \
    kernel-module-bridge \
    kernel-module-nf-tables \
    kernel-module-nft-chain-nat \
    kernel-module-nft-masq \
    kernel-module-nft-nat \
    kernel-module-nft-ct \
"
