# Onward: an outbound SMTP relay. `make help` lists the targets.
#
# One build tree per variant under build/: release, clang, asan, tsan, fuzz. Objects follow the sources'
# paths; the compiler tracks dependencies.

VARIANT  ?= release
PREFIX   ?= /usr/local
DESTDIR  ?=
VERSION  := 0.1.0
BUILD    := build/$(VARIANT)

# The Debian 12 packages that each job needs; make demo, make check and the like install what is missing.
BUILD_PACKAGES := gcc libc6-dev pkg-config libunbound-dev libjemalloc-dev liblmdb-dev libck-dev libyaml-dev \
                  libssl-dev libidn2-dev libjansson-dev libsystemd-dev libseccomp-dev libmicrohttpd-dev \
                  zlib1g-dev libcurl4-openssl-dev libncurses-dev
RUN_PACKAGES   := dns-root-data ca-certificates
TEST_PACKAGES  := libcmocka-dev libxxhash-dev nsd postfix swaks openssl python3 curl prometheus iproute2 \
                  clang libclang-rt-14-dev procps libnss-wrapper tmux chromium haproxy e2fsprogs mount
TIDY_PACKAGES  := libcmocka-dev libxxhash-dev clang-tidy clang-format python3 git
BENCH_PACKAGES := libxxhash-dev nsd postfix openssl python3 iproute2 util-linux procps gnuplot-nox \
                  linux-perf strace valgrind git
DEMO_PACKAGES  := nsd postfix swaks python3
DEB_PACKAGES   := dpkg-dev debhelper lintian

ifeq ($(origin CC),default)
  CC     := gcc
endif
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wswitch-enum -Wmissing-prototypes -Wstrict-prototypes -Werror
HARDEN   := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
LINK     := -pie -Wl,-z,relro,-z,now,-z,noexecstack
DEFINES  := -D_GNU_SOURCE -DONWARD_VERSION='"$(VERSION)"'

ifeq ($(VARIANT),release)
  OPTIMIZE := -O2 -g -D_FORTIFY_SOURCE=2
  MALLOC   := -ljemalloc
else ifeq ($(VARIANT),clang)
  CC       := clang
  OPTIMIZE := -O2 -g -D_FORTIFY_SOURCE=2
  MALLOC   := -ljemalloc
else ifeq ($(VARIANT),asan)
  DEFINES += -DONWARD_NO_JEMALLOC
  OPTIMIZE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all \
              -DONWARD_HOT_ASSERTS
else ifeq ($(VARIANT),tsan)
  DEFINES += -DONWARD_NO_JEMALLOC
  OPTIMIZE := -O1 -g -fno-omit-frame-pointer -fsanitize=thread -DONWARD_HOT_ASSERTS \
              -DONWARD_THREAD_SANITIZER
else ifeq ($(VARIANT),fuzz)
  CC       := clang
  DEFINES  += -DONWARD_NO_JEMALLOC
  OPTIMIZE := -O2 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-coverage=trace-cmp \
              -fno-sanitize-recover=all -DONWARD_HOT_ASSERTS
else
  $(error VARIANT is release, clang, asan, tsan or fuzz)
endif

# EXTRA_CFLAGS and EXTRA_LDFLAGS are for packagers.
CFLAGS   := -std=c11 $(WARNINGS) $(HARDEN) $(OPTIMIZE) $(DEFINES) -I. -MMD -MP $(EXTRA_CFLAGS)
LINK     += $(EXTRA_LDFLAGS)
LIBS     := -lunbound -llmdb -lck -lyaml -lssl -lcrypto -lidn2 -ljansson -lmicrohttpd -lz -lcurl -lncurses \
            -lsystemd -lseccomp -lpthread $(MALLOC)

SOURCES  := $(sort $(wildcard core/*.c core/*/*.c dns/*.c smtp/*.c smtp/*/*.c workers/*.c workers/*/*.c))
OBJECTS  := $(SOURCES:%.c=$(BUILD)/%.o)
UNITS    := $(sort $(wildcard tests/unit/test_*.c))
UNIT_BINARIES := $(UNITS:tests/unit/%.c=$(BUILD)/tests/%)
FUZZERS  := $(sort $(wildcard tests/fuzz/fuzz_*.c))

.PHONY: all help demo check quick asan tsan torture deps-build deps-demo deps-check deps-bench deps-tidy \
        deps-deb unit preloads torture-tools sim fuzz fuzz-binaries tidy format bench bench-quick \
        bench-plots bench-peers bench-tools install deb clean
.DELETE_ON_ERROR:
.SECONDARY:

all: $(BUILD)/onward ## build the relay: ./onward
ifeq ($(VARIANT),release)
all: onward
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

onward: $(BUILD)/onward
	@cp -f $< $@

$(BUILD)/onward: $(OBJECTS)
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) $(LINK) -o $@ $(OBJECTS) $(LIBS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS) -c -o $@ $<

# It holds the page as it is.
$(BUILD)/workers/http/page.o: workers/http/page.html

# The thread sanitizer cannot read this library's fences: see the file.
build/tsan/core/base/ring.o: CFLAGS := $(filter-out -fsanitize=thread,$(CFLAGS))

# ---- what a newcomer runs ----

demo: deps-demo ## see the main job on real sockets, in under a minute
	@$(MAKE) --no-print-directory -s -j2 all
	@python3 tests/demo/demo.py

check: deps-check ## run every test, and print the counts
	@tests/run all

quick: ## the unit tests and a short end-to-end run
	@tests/run quick

asan: ## unit tests, simulation and end-to-end under the address and undefined-behaviour sanitizers
	@tests/run asan

tsan: ## unit tests and end-to-end under the thread sanitizer
	@tests/run tsan

torture: deps-check ## kills, power cuts, full disks: 1,000 kills and every n-th failure (half an hour)
	@$(MAKE) --no-print-directory -s -j2 all torture-tools
	@tests/torture/run.py full

# ---- packages ----

deps-build:
	@tests/install-packages $(BUILD_PACKAGES) $(RUN_PACKAGES)
deps-demo:
	@tests/install-packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(DEMO_PACKAGES)
deps-check:
	@tests/install-packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)
	@python3 -B tests/e2e/mailservers.py
deps-bench:
	@tests/install-packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(BENCH_PACKAGES)
deps-tidy:
	@tests/install-packages $(BUILD_PACKAGES) $(TIDY_PACKAGES)
deps-deb:
	@tests/install-packages $(BUILD_PACKAGES) $(DEB_PACKAGES)

# ---- tests ----

unit: $(UNIT_BINARIES) $(BUILD)/tests/sim_main ## build the unit tests and the simulation of this VARIANT

# A test links against the archive of all modules but the program's own main, and takes from it what it needs.
MODULES      := $(filter-out workers/cli/main.c,$(SOURCES))
TEST_HELPERS := $(filter-out tests/unit/test_%,$(wildcard tests/unit/*.c))

$(BUILD)/modules.a: $(MODULES:%.c=$(BUILD)/%.o) $(TEST_HELPERS:%.c=$(BUILD)/%.o)
	@rm -f $@ $@.part
	@ar rcs $@.part $^
	@mv $@.part $@

$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(BUILD)/modules.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) $(LINK) -o $@ $^ -lcmocka -Wl,--as-needed $(LIBS)

SIM := $(sort $(wildcard tests/sim/*.c))
SEED ?= 1

# Its stand-ins for clock, network, spool and resolver come first, so those of the archive stay out.
$(BUILD)/tests/sim_main: $(SIM:%.c=$(BUILD)/%.o) $(BUILD)/modules.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) $(LINK) -o $@ $^ -Wl,--as-needed $(LIBS)

# Libraries that stand between the relay and the system while it is tested (LD_PRELOAD).
PRELOADS := $(patsubst tests/preload/%.c,$(BUILD)/preload/%.so,$(sort $(wildcard tests/preload/*.c)))

preloads: $(PRELOADS) ## build what end-to-end tests preload

$(BUILD)/preload/%.so: tests/preload/%.c Makefile
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) -std=c11 $(WARNINGS) -O2 -g $(DEFINES) -fPIC -shared -o $@ $<

# What stands between the relay and its disk (a library for LD_PRELOAD), and what judges the states of a
# power cut.
TORTURE := $(BUILD)/torture/disk.so $(BUILD)/torture/states $(BUILD)/torture/sink

torture-tools: $(TORTURE) ## build what tests/torture works with

$(BUILD)/torture/disk.so: tests/torture/disk.c tests/torture/trace.h Makefile
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) -fPIC -shared -o $@ $< -ldl -lpthread

$(BUILD)/torture/sink: $(BUILD)/tests/torture/sink.o
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) $(LINK) -o $@ $^ -Wl,--as-needed $(MALLOC)

$(BUILD)/torture/states: $(addprefix $(BUILD)/tests/torture/,states.o image.o reference.o) $(BUILD)/modules.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) $(LINK) -o $@ $^ -Wl,--as-needed $(LIBS)

sim: $(BUILD)/tests/sim_main ## run one simulated world and show its trace: make sim SEED=n
	@$(BUILD)/tests/sim_main seed $(SEED)

fuzz: ## build the fuzzers (clang, libFuzzer) into build/fuzz
	@$(MAKE) --no-print-directory VARIANT=fuzz fuzz-binaries
fuzz-binaries: $(FUZZERS:tests/fuzz/%.c=$(BUILD)/%)

$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/modules.a
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ -Wl,--as-needed $(LIBS)

# ---- care ----

tidy: deps-tidy ## static analysis: clang-tidy, include arrows, documented headers
	@tests/tidy

format: ## lay out all C files by .clang-format
	clang-format -i $$(git ls-files '*.[ch]')

# ---- measuring ----

bench: bench-peers ## measure against Postfix, Exim and Haraka, within an hour (see bench/README.md)
	@$(MAKE) --no-print-directory -s -j2 all bench-tools
	@bench/run; status=$$?; bench/plot build/bench/results.json && exit $$status

bench-quick: bench-peers ## the same in small, within five minutes
	@$(MAKE) --no-print-directory -s -j2 all bench-tools
	@bench/run --quick --out build/bench/quick.json; status=$$?; \
	    bench/plot build/bench/quick.json build/bench/quick && exit $$status

bench-plots: ## keep the plots and tables of the last `make bench` as those that README.md shows
	@bench/plot build/bench/results.json
	@install -d bench/plots
	@install -m 0644 build/bench/plots/*.svg build/bench/plots/tables.md bench/plots/

bench-peers: deps-bench ## bring the relays to measure against
	@bench/run --fetch

BENCH_PROGRAMS := load sink delay fill costs
BENCH_PARTS    := $(filter-out $(BENCH_PROGRAMS:%=bench/tools/%.c),$(sort $(wildcard bench/tools/*.c)))
BENCH_TOOLS    := $(BENCH_PROGRAMS:%=$(BUILD)/bench/%)

bench-tools: $(BENCH_TOOLS) ## build what the bench and the tests of scale measure with

$(BUILD)/bench/parts.a: $(BENCH_PARTS:%.c=$(BUILD)/%.o)
	@rm -f $@
	@ar rcs $@ $^

$(BENCH_TOOLS): $(BUILD)/bench/%: $(BUILD)/bench/tools/%.o $(BUILD)/bench/parts.a $(BUILD)/modules.a
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) $(LINK) -o $@ $^ -Wl,--as-needed $(LIBS)

# ---- installing ----

UNIT_DIR ?= $(PREFIX)/lib/systemd/system
DEB_TREE := build/deb/onward-$(VERSION)

build/onward.yaml.5: workers/packaging/onward.yaml.5.awk core/config/onward.yaml
	@mkdir -p $(@D)
	awk -v version=$(VERSION) -f $^ > $@

install: all build/onward.yaml.5 ## install under $(DESTDIR)$(PREFIX): binary, manual, configuration, unit, completion
	install -D -m 0755 onward $(DESTDIR)$(PREFIX)/sbin/onward
	install -D -m 0644 workers/packaging/onward.8 $(DESTDIR)$(PREFIX)/share/man/man8/onward.8
	install -D -m 0644 build/onward.yaml.5 $(DESTDIR)$(PREFIX)/share/man/man5/onward.yaml.5
	install -D -m 0644 core/config/onward.yaml $(DESTDIR)$(PREFIX)/share/doc/onward/examples/onward.yaml
	install -D -m 0644 workers/packaging/onward.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/onward
	install -d $(DESTDIR)/etc/onward $(DESTDIR)$(UNIT_DIR)
	test -e $(DESTDIR)/etc/onward/onward.yaml || \
	    install -m 0644 core/config/onward.yaml $(DESTDIR)/etc/onward/onward.yaml
	sed 's|@PREFIX@|$(PREFIX)|g' workers/packaging/onward.service > $(DESTDIR)$(UNIT_DIR)/onward.service
	chmod 0644 $(DESTDIR)$(UNIT_DIR)/onward.service
	install -D -m 0644 workers/packaging/onward.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/onward.conf

# debhelper wants its folder at the top of the tree, so it works on a copy.
deb: deps-deb ## build a Debian package into build/deb, and have lintian look at it
	rm -rf build/deb
	mkdir -p $(DEB_TREE)
	tar -c --exclude=__pycache__ core dns smtp workers bench tests Makefile README.md LICENSE | tar -x -C $(DEB_TREE)
	mv $(DEB_TREE)/workers/packaging/debian $(DEB_TREE)/debian
	sed -e 's/@BUILD_PACKAGES@/$(call comma-list,$(filter-out gcc libc6-dev,$(BUILD_PACKAGES)))/' \
	    -e 's/@RUN_PACKAGES@/$(call comma-list,$(RUN_PACKAGES))/' $(DEB_TREE)/debian/control.in > $(DEB_TREE)/debian/control
	rm $(DEB_TREE)/debian/control.in
	cd $(DEB_TREE) && test "$$(dpkg-parsechangelog -S Version)" = $(VERSION) || \
	    { echo "workers/packaging/debian/changelog does not begin with version $(VERSION)"; exit 1; }
	cd $(DEB_TREE) && dpkg-buildpackage --no-sign --jobs=2
	lintian --allow-root --display-info --fail-on error,warning,info build/deb/onward_$(VERSION)_*.changes
	@ls build/deb/*.deb

space := $(subst ,, )
comma-list = $(subst $(space),$(comma)$(space),$(strip $(1)))
comma := ,

clean: ## remove what was built
	rm -rf build onward

-include $(OBJECTS:.o=.d) $(wildcard $(BUILD)/torture/*.d $(BUILD)/tests/*/*.d $(BUILD)/bench/*/*.d)
