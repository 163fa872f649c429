# run, test, check, bench, audit: that is all there is to remember.

CARGO_TARGET_DIR ?= $(CURDIR)/target
CLIENTS := gateway/tests/clients
# What is given to the load test: make bench ARGS="--subscribers 10000 --transport sse"
ARGS ?=

export CARGO_TARGET_DIR

.DEFAULT_GOAL := help
.PHONY: help run test check bench bench-peers microbench audit install lint rust-tests client-tests compose

help:
	@echo "make run     start the gateway in development mode; needs no Redis and no configuration"
	@echo "make test    check, then every test; installs what the tests need"
	@echo "make check   formatting, clippy, rustdoc; warnings are errors"
	@echo "make bench   micro-benchmarks, then the load test against a release build on loopback (ARGS=\"--subscribers 10000\")"
	@echo "make bench-peers   compare with other servers and the kernel baseline: a quarter of an hour, two idle cores"
	@echo "make microbench   what each step on the way of a message costs, beside the least it can (ARGS=flush for some)"
	@echo "make audit   licences, banned crates, sources, known vulnerabilities"

run:
	cargo run --release -p earshot -- serve --dev

# One after the other, whatever -j says: they share two things that cannot be shared, the build directory and the cores.
test:
	@$(MAKE) --no-print-directory install
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory rust-tests
	@$(MAKE) --no-print-directory client-tests
	@$(MAKE) --no-print-directory compose

check: lint

# The arguments are the load test's.
bench:
	@$(MAKE) --no-print-directory microbench ARGS=
	@.ci/bench $(ARGS)

bench-peers:
	@loadtest/bench/run $(ARGS)

microbench:
	cargo bench --locked --quiet -p earshot --bench micro -- $(ARGS)

audit:
	@.ci/audit

# ---- What those consist of

install:
	@.ci/install

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --locked --quiet

# The tests open thousands of sockets at once.
rust-tests:
	ulimit -n "$$(ulimit -Hn)" && cargo test --workspace --locked

client-tests:
	@# Builds the binary with the same features as the Rust tests, so that nothing is compiled twice.
	cargo test -p earshot --no-run --locked
	cd $(CLIENTS) && EARSHOT_BIN="$(CARGO_TARGET_DIR)/debug/earshot" npm test

compose:
	@if docker compose version >/dev/null 2>&1; then \
	  echo "docker compose config -q"; docker compose config -q; \
	else echo "docker compose is not here: docker-compose.yml is not checked"; fi
