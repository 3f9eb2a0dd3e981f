# One word runs each gate. `make test` is what .ci/run runs.

CARGO ?= cargo
BUILD_ROOT := $(or $(CARGO_TARGET_DIR),target)

.PHONY: demo test check bench build docs install-needs clean

## Build qmig, make two hosts on this machine, move a busy key-value server (needs root).
demo:
	@test "$$(id -u)" = 0 || { echo "make demo builds network namespaces and needs root: try 'sudo make demo'" >&2; exit 1; }
	$(CARGO) build --release --package cli
	$(BUILD_ROOT)/release/qmig demo

## Install what the tests need, then build and run all of them (root for everything to run).
test: install-needs
	$(CARGO) build --workspace --bins
	CARGO=$(CARGO) ./netns-tests/run-tests.sh

## Format, lints, documentation: warnings are errors.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

## Figures for BENCHMARKS.md, and the page and records of every trial in target/benchmarks (needs root; all take about
## an hour, `target/release/qmig-bench TABLE…` does some). What was stopped goes on when it is typed again.
bench: install-needs
	$(CARGO) build --release --workspace --bins
	$(BUILD_ROOT)/release/qmig-bench --out $(BUILD_ROOT)/benchmarks

## Man pages and shell completions, into target/docs.
docs:
	$(CARGO) build --release --package cli
	$(BUILD_ROOT)/release/qmig generate man $(BUILD_ROOT)/docs/man
	$(BUILD_ROOT)/release/qmig generate completions $(BUILD_ROOT)/docs/completions

install-needs:
	./netns-tests/install-needs.sh

clean:
	$(CARGO) clean
