# Each target installs what it misses (scripts/deps.sh) and then calls cargo; `make help` lists them.
# Build output stays out of the tree, so that clones share it: set CARGO_TARGET_DIR to move it.

SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(HOME)/.cache/memkv/target
PREFIX ?= /usr/local
ONLY ?=

.DEFAULT_GOAL := help
.PHONY: help run test bench install

help: ## list the targets
	@printf 'usage: make TARGET\n\n'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

run: ## build and start a server, run the demo against it, stay up until Ctrl-C
	@scripts/deps.sh build
# On a terminal the recipe becomes a job of its own, so that Ctrl-C reaches it and not make: the
# server drains and make ends with 0 instead of "Interrupt".
	@if [ -t 0 ]; then bash -mc 'cargo xtask run'; else exec cargo xtask run; fi

test: ## all tests: formatting, lints, generated files, unit and integration tests
	@scripts/deps.sh test
	@cargo xtask ci

bench: ## benchmarks beside other servers, fails below a must; ONLY=id,id runs a part
	@scripts/deps.sh bench
	@cargo run --locked --release --package memkv-benches -- --strict $(if $(ONLY),--only $(ONLY))

install: ## install into PREFIX (default /usr/local): binary, completions, example configs
	@scripts/deps.sh build
	@cargo xtask install --prefix '$(PREFIX)'
