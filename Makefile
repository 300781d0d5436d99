# What a developer types. Each target is one command that can also be typed by hand.
.PHONY: demo test test-tools lint bench lab fleet

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

# The whole rollout of a patch to 400 simulated sites of 750 devices, a quarter of an hour on two cores that do nothing else; with
# charts. See docs/simulations.md.
fleet:
	cargo build --locked --profile fleet -p patchmesh-simulations
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 target/fleet/simulate fleet --plan simulations/plans/fleet.toml --to target/charts $(ARGS)

# The release binary in the network lab, beside what other tools reached there: make lab SCENARIOS=L1,L4 RUNS=3
# ARGS='--rtt 150ms'. See docs/lab.md.
SCENARIOS = L1,L2,L3,L4,L5,L6
RUNS = 1
lab:
	@tests/lab/run --where
	tests/tools lab/packages.txt
	cargo build --locked --release
	tests/lab/run --scenario $(SCENARIOS) --runs $(RUNS) $(ARGS)
