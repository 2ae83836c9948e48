################################################################################
#
# balena
#
################################################################################

# The version that you ship: a tag or a commit, its checksum in balena.hash.
BALENA_VERSION = main
BALENA_SITE = $(call github,balena-os,balena,$(BALENA_VERSION))
BALENA_LICENSE = Apache-2.0
BALENA_LICENSE_FILES = LICENSE
BALENA_DEPENDENCIES = host-pkgconf libseccomp
BALENA_GOMOD = github.com/balena-os/balena
BALENA_BUILD_TARGETS = cmd/balena
BALENA_LDFLAGS = -X main.version=28.5-rev1 -X main.commit=$(BALENA_VERSION)
BALENA_TAGS = exclude_graphdriver_btrfs \
	exclude_graphdriver_zfs \
	containers_image_openpgp \
	grpcnotrace \
	osusergo \
	netgo \
	seccomp \
	nethttpomithttp2

define BALENA_INSTALL_STAGES
	for stage in balena-monitor balena-runc balena-init balena-netns; do \
		ln -sf balena $(TARGET_DIR)/usr/bin/$$stage || exit 1; \
	done
endef
BALENA_POST_INSTALL_TARGET_HOOKS += BALENA_INSTALL_STAGES

define BALENA_LINUX_CONFIG_FIXUPS
	$(call KCONFIG_ENABLE_OPT,CONFIG_OVERLAY_FS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NAMESPACES)
	$(call KCONFIG_ENABLE_OPT,CONFIG_USER_NS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CGROUPS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_MEMCG)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CGROUP_PIDS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CGROUP_FREEZER)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CGROUP_BPF)
	$(call KCONFIG_ENABLE_OPT,CONFIG_SECCOMP)
	$(call KCONFIG_ENABLE_OPT,CONFIG_SECCOMP_FILTER)
	$(call KCONFIG_ENABLE_OPT,CONFIG_VETH)
	$(call KCONFIG_ENABLE_OPT,CONFIG_BRIDGE)
	$(call KCONFIG_ENABLE_OPT,CONFIG_TUN)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_TABLES)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_NAT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_MASQ)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_CT)
endef

$(eval $(golang-package))
