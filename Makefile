# Everything a contributor and CI touch. `make help` lists the targets.

PREFIX  ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
ZSHDIR  ?= site-functions
BALENA  ?= bin/balena
GO      ?= go
BINDIR  := $(DESTDIR)$(PREFIX)/bin
SHARE   := $(DESTDIR)$(PREFIX)/share
CONFDIR := $(DESTDIR)$(SYSCONFDIR)/containers

VERSION ?= 28.5-rev1
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
# Reproducible: the build's time is the commit's, unless the packager says another.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

TAGS := exclude_graphdriver_btrfs,exclude_graphdriver_zfs,containers_image_openpgp,grpcnotrace,osusergo,netgo,seccomp,nethttpomithttp2
LDFLAGS := -s -w -linkmode external -extldflags "-static" \
	-X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.buildEpoch=$(SOURCE_DATE_EPOCH)
ifeq ($(shell $(GO) env GOARCH),amd64)
LDFLAGS += -funcalign=16
endif
# musl makes it smaller than glibc does: docs/size.md.
ifneq ($(shell command -v musl-gcc),)
STATIC_CC := PATH="$(CURDIR)/scripts:$$PATH" CC=musl-cc
endif
STAGES := balena-monitor balena-runc balena-init balena-netns
STATICCHECK := $(shell $(GO) env GOPATH)/bin/staticcheck

# Every go command below (and of the scripts) sees the same tags; libcontainer needs cgo.
export GOFLAGS := -buildvcs=false -tags=$(TAGS)
export CGO_ENABLED := 1

.DEFAULT_GOAL := build
.PHONY: help deps deps-bench deps-vm build install install-files uninstall check docs pictures docs-check docs-test test size size-check size-budget unit fuzz bats demo bench bench-build bench-sdcard bench-startup bench-fleet crash crash-vm clean
.PHONY: bench-cache bench-idle bench-limits
.PHONY: cross cross-same cross-run test-cross vm-arm deb deb-test

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

deps: ## install what build, check, test and demo need (Debian 12; as root or with sudo)
	scripts/deps

deps-bench: ## install podman and docker, the peers of `make bench`
	scripts/deps bench

deps-vm: ## install qemu, for `make crash-vm`
	scripts/deps vm

build: ## build the static bin/balena and its argv[0] links
	$(STATIC_CC) $(GO) build -trimpath $$(scripts/gcflags) -ldflags '$(LDFLAGS)' -o bin/balena ./cmd/balena
	@for s in $(STAGES); do ln -sf balena bin/$$s; done

install: build install-files ## install below $(DESTDIR)$(PREFIX), and settings where there are none in $(DESTDIR)$(SYSCONFDIR)

# Without building: BALENA=FILE is another binary, of make cross.
install-files:
	install -D -m 755 $(BALENA) $(BINDIR)/balena
	for s in $(STAGES); do ln -sf balena $(BINDIR)/$$s; done
	install -D -m 644 -t $(SHARE)/man/man1 docs/man/*.1
	install -D -m 644 docs/completion/balena.bash $(SHARE)/bash-completion/completions/balena
	install -D -m 644 docs/completion/_balena $(SHARE)/zsh/$(ZSHDIR)/_balena
	install -D -m 644 docs/completion/balena.fish $(SHARE)/fish/vendor_completions.d/balena.fish
	install -D -m 644 -t $(SHARE)/balena docs/seccomp.json packaging/etc/registries.conf packaging/etc/policy.json
	@for f in registries.conf policy.json; do \
		if [ -e $(CONFDIR)/$$f ]; then echo "$(CONFDIR)/$$f is there, and stays as it is"; \
		else install -v -D -m 644 packaging/etc/$$f $(CONFDIR)/$$f; fi; done

uninstall: ## remove what install put there, but settings and images
	rm -f $(BINDIR)/balena $(addprefix $(BINDIR)/,$(STAGES)) $(SHARE)/man/man1/balena.1 $(SHARE)/man/man1/balena-*.1
	rm -f $(SHARE)/bash-completion/completions/balena $(SHARE)/zsh/$(ZSHDIR)/_balena $(SHARE)/fish/vendor_completions.d/balena.fish
	rm -rf $(SHARE)/balena
	@echo "left: settings in $(CONFDIR); images, containers and volumes in /var/lib/balena and in users' ~/.local/share/balena"

check: docs-check ## vet, staticcheck, gofmt, go.mod, shell scripts, generated docs
	$(GO) vet ./...
	$(STATICCHECK) ./...
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
		if [ -n "$$unformatted" ]; then echo "gofmt: $$unformatted" >&2; exit 1; fi
	$(GO) mod tidy -diff
	@for d in third_party/*/; do (cd $$d && $(GO) vet ./... && $(GO) test ./...) || exit 1; done
	scripts/deadcode-check
	shellcheck -x -e SC2016,SC2154 scripts/deps scripts/deadcode-check scripts/docs-check scripts/fuzz scripts/gcflags scripts/links-check scripts/musl-cc test/docs/run test/docs/world test/docs/examples scripts/as-user scripts/demo .ci/run test/run test/bats/*.bash test/bats/*.bats test/images/build test/registry/registry test/tardiff/build test/bench/bench test/bench/floor test/bench/sdcard test/bench/build test/bench/engines.bash test/bench/fleet test/crashvm/guest test/crashvm/init
	shellcheck -x -e SC2016,SC2154 test/bench/cache test/bench/idle test/bench/inits test/bench/limits
	shellcheck -x -e SC2016,SC2154 scripts/cross scripts/fetch-deb scripts/emulate test/cross test/vmarm/run test/vmarm/init test/size/engines scripts/deb packaging/deb/postrm test/deb
	test/contrib

docs: ## generate the man pages and completions in docs/
	TAGS=$(TAGS) scripts/docs

pictures: ## draw docs/images/*.svg from the .pic beside each
	@for f in docs/images/*.pic; do $(GO) run ./test/cmd/picture $$f >$${f%.pic}.svg.new && mv $${f%.pic}.svg.new $${f%.pic}.svg || exit 1; done

docs-check: ## the man pages, completions and pictures in docs/ are those of the command tree and the sources
	TAGS=$(TAGS) scripts/docs-check
	scripts/links-check
	test/docs/run -n

docs-test: build ## run the commands of all documents and the examples of the manual (as root); FILES= picks
	test/docs/run $(FILES)

size: build ## what grew since the table in test/size/budget was recorded; BASE=another binary
	$(GO) run ./test/cmd/binsize -base $(or $(BASE),test/size/budget) bin/balena

size-check: build # the binary stays below the limit in test/size/budget
	@[ "$$($(GO) env GOARCH)" != amd64 ] || $(GO) run ./test/cmd/binsize -budget test/size/budget bin/balena

size-budget: build ## record the binary's table in test/size/budget; LIMIT=bytes for another limit
	@limit=$(or $(LIMIT),$$(awk '$$2 == "limit" {print $$1}' test/size/budget)); \
	$(GO) run ./test/cmd/binsize -record $$limit bin/balena >test/size/budget.new && mv test/size/budget.new test/size/budget

test: build size-check docs-test ## everything a contributor must pass: unit, bats as root, bats rootless, power cuts (as root)
	test/run unit root rootless crash

unit: ## only the Go tests, with the race detector
	test/run unit

fuzz: ## throw damaged deltas, layers and manifests at what reads them: a minute for each reader of deltas, 20 s for the rest, or FUZZTIME=2s
	@scripts/fuzz $(FUZZTIME)

bats: build ## only bats; MODE="root rootless", FILES="pull.bats run.bats", FILTER=regex pick
	test/run $(or $(MODE),root) $(FILES)

demo: build ## the main job on the screen: pull, run, curl, ps, logs, exec, stop, rm
	scripts/demo

bench: build ## side by side with podman and docker; prints a table (as root)
	test/bench/bench

bench-startup: build ## start-up and memory of the small commands and the stages, side by side (as root)
	test/bench/bench startup memory
	@echo; test/bench/inits

test-projects: build ## build Ghost and a Go service, run them and ask them over HTTP (as root; minutes)
	PROJECTS=1 test/run root rootless projects.bats

crash: build ## cut the power: N=cuts SEED=n FS="ext4 xfs" OP=pull,rm AT=point PEER=podman|docker (as root)
	N="$(N)" SEED="$(SEED)" FS="$(FS)" OP="$(OP)" AT="$(AT)" PEER="$(PEER)" test/run crash

crash-vm: build ## kill a guest under qemu in pulls and with containers, boot it again: N=cuts SEED=n OP=vm-pull,vm-update,vm-up (as root)
	N="$(N)" SEED="$(SEED)" OP="$(OP)" AT="$(AT)" test/run crash-vm

bench-cache: build ## what a large pull does to an application beside it: faults, latency, side by side (as root)
	test/bench/cache

bench-idle: build ## what a container that idles or logs writes to the disk, side by side (as root)
	test/bench/idle

bench-limits: build ## pulls of 1.5 GB, in one layer and by a delta, and of a million files, in 64 MB of memory (as root)
	test/bench/limits

bench-build: build ## build three Dockerfiles beside podman and docker: cold, cached, bytes written (as root)
	test/bench/build

bench-sdcard: build ## a pull onto a slow card, beside the same bytes in one go, tar, podman, docker; prints a table (as root)
	test/bench/sdcard

bench-fleet: build ## what 1,000 devices take from a registry for an update, with deltas and without (as root)
	test/bench/fleet $(FLEET)

cross: ## static binaries for the six architectures, in bin/cross
	scripts/cross $(TARGETS)

cross-same: ## build for the six again, from another folder and an empty cache, and compare the bytes
	scripts/cross same $(TARGETS)

cross-run: ## what cross built does its work, for each processor: pull, delta, save, beside amd64 (as root)
	test/cross $(TARGETS)

test-cross: ## go vet and unit tests for 386 and, in qemu's user mode, armv7: TARGETS= PACKAGES= TESTFLAGS=
	scripts/cross test $(TARGETS)

vm-arm: ## boot Debian's kernels for ARM under qemu and run containers with cross's binaries: TARGETS="armv7 arm64" (as root)
	test/vmarm/run $(TARGETS)

deb: ## Debian packages for the six architectures, in bin/deb; lintian reads them
	scripts/deb $(TARGETS)

deb-test: ## install the amd64 package in a clean Debian root, run a container, remove them (as root)
	test/deb bin/deb/*_amd64.deb

clean: ## remove what the other targets made
	rm -rf bin
