# Main targets: run, test, check, bench, audit. `make help` lists all.

CARGO_TARGET_DIR ?= $(CURDIR)/target
CLIENTS := gateway/tests/clients
# Arguments for the load test: make bench ARGS="--subscribers 10000 --transport sse"
ARGS ?=

export CARGO_TARGET_DIR
# Where rustup installs cargo; a shell that was open before does not have it on its PATH.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.DEFAULT_GOAL := help
.PHONY: help run test check bench bench-peers microbench fuzz audit release install lint rust-tests client-tests package-tests compose

help:
	@echo "make run          start the gateway in development mode; needs no Redis and no configuration; installs a compiler"
	@echo "make test         run make check, then all tests; installs what the tests need"
	@echo "make check        check formatting, clippy and rustdoc; warnings are errors"
	@echo "make bench        run the micro-benchmarks, then the load test against a release build on loopback (ARGS=\"--subscribers 10000\")"
	@echo "make bench-peers  compare with other servers and the kernel baseline; takes 15 minutes and needs two idle cores"
	@echo "make microbench   measure the cost of each step of the delivery path, and a lower bound for it (ARGS=flush selects steps)"
	@echo "make fuzz         run each fuzz target for a minute; compiles for some minutes first (ARGS=cursor selects targets)"
	@echo "make audit        check licences, banned crates, sources and known vulnerabilities"
	@echo "make release      build static binaries, tarballs and Debian packages for x86_64 and aarch64 into target/dist"

# The profile compiles faster than release and does not optimise; see CONTRIBUTING.md.
run:
	@.ci/install build
	cargo run --profile quick --locked -p earshot-gateway -- serve --dev

# The steps run one after another, even with -j: they use the same build directory and the same cores.
test:
	@$(MAKE) --no-print-directory install
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory rust-tests
	@$(MAKE) --no-print-directory client-tests
	@$(MAKE) --no-print-directory package-tests
	@$(MAKE) --no-print-directory compose

check: lint

# ARGS is for the load test only.
bench:
	@$(MAKE) --no-print-directory microbench ARGS=
	@.ci/bench $(ARGS)

bench-peers:
	@loadtest/bench/run $(ARGS)

microbench:
	cargo bench --locked --quiet -p earshot-gateway --features bench --bench micro -- $(ARGS)

audit:
	@.ci/audit

fuzz:
	@.ci/fuzz $(ARGS)

# TARGETS and PROFILE: see the script.
release:
	@packaging/build

# ---- Steps of the targets above

install:
	@.ci/install

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features earshot-gateway/bench --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --locked --quiet

# The tests open thousands of sockets at once.
rust-tests:
	ulimit -n "$$(ulimit -Hn)" && cargo test --workspace --locked

client-tests:
	@# Builds the binary with the features of the Rust tests, so that nothing is compiled twice.
	cargo test -p earshot-gateway --no-run --locked
	cd $(CLIENTS) && EARSHOT_BIN="$(CARGO_TARGET_DIR)/debug/earshot" npm test

# Packages the binary that the client tests have built, and verifies the packages.
package-tests:
	BINARY="$(CARGO_TARGET_DIR)/debug/earshot" DIST="$(CARGO_TARGET_DIR)/test-dist" packaging/build

compose:
	@if docker compose version >/dev/null 2>&1; then \
	  echo "docker compose config -q"; docker compose config -q; \
	else echo "docker compose is not installed: docker-compose.yml is not checked"; fi
