# What a developer types. Each target is one command that can also be typed by hand.
.PHONY: demo test test-tools lint bench lab

# The whole path of a patch on this machine, with real Debian packages.
demo:
	cargo run --release -- demo

# Every test there is. The whole-system tests run the binaries that are built first, with the features of the tests so
# that nothing is built twice.
test: test-tools
	cargo build --locked --workspace --bins --tests
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked --workspace --no-fail-fast; \
	else cargo test --locked --workspace --bins --lib --tests --no-fail-fast; fi

# System packages and the Python environment that the tests need.
test-tools:
	tests/tools

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo deny check

# Figures of this machine; run it when nothing else runs: make bench ARGS='--runs 3 --size 256'. See docs/benchmarks.md.
bench:
	tests/tools loopback-packages.txt
	cargo build --locked --release --workspace --bins
	target/release/loopback $(ARGS)
	cargo bench --locked --workspace --bench '*'

# The release binary in the network lab, beside what other tools reached there: make lab SCENARIOS=L1,L4 RUNS=3
# ARGS='--rtt 150ms'. See docs/lab.md.
SCENARIOS = L1,L2,L3,L4,L5,L6
RUNS = 1
lab:
	@tests/lab/run --where
	tests/tools lab/packages.txt
	cargo build --locked --release
	tests/lab/run --scenario $(SCENARIOS) --runs $(RUNS) $(ARGS)
