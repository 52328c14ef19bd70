# Everything a developer or a CI job needs. `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# mypy refuses an empty folder; each of these joins with its first file.
CODE = $(foreach dir,perdure tests examples bench,$(if $(shell find $(dir) -name '*.py' -print -quit 2>/dev/null),$(dir)))

SEEDS ?= 5000
SEED ?=
KIND ?= $(if $(SEED),plain,all)
ARGS ?=

.PHONY: help setup demo check test chaos sim bench bench-nodes bench-peers check-deploy fuzz soak fmt lock lock-deploy \
  lock-peers clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | \
	  while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

setup: .venv/.stamp ## build .venv from the locked requirements (instant when nothing changed)

.venv/.stamp: pyproject.toml requirements/dev.txt requirements/vendor.txt .ci/setup
	@PYTHON='$(PYTHON)' UV='$(UV)' .ci/setup

demo: setup ## run the demonstration (asks nothing when there is no terminal)
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/perdure demo; else $(BIN)/perdure demo --yes; fi

check: setup ## lint, format, types, import rules, tidiness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/tidy

chaos: setup ## many nodes on PostgreSQL, struck until TAKEOVERS=n (1000); ARGS="--seed 2"
	$(BIN)/python -m perdure.testing.chaos --takeovers $(or $(TAKEOVERS),1000) $(ARGS)

check-deploy: setup .venv-deploy/.stamp ## lint deploy/: Dockerfile, compose file, Helm chart
	.venv-deploy/bin/python deploy/check/check.py

.venv-deploy/.stamp: deploy/check/setup deploy/check/requirements.txt
	@UV='$(UV)' deploy/check/setup

test: setup ## run every test; ARGS="-k word" narrows it
	$(BIN)/pytest $(ARGS)

sim: setup ## simulate: SEEDS=n runs that many, shared out over all kinds; SEED=n KIND=trees one
	@$(BIN)/python -m perdure.testing.sim --kind $(KIND) \
	  $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

bench: setup ## measure this machine
	$(BIN)/python -m bench $(ARGS)

bench-nodes: setup ## measure nodes on one PostgreSQL; ARGS="--write" puts the tables into the documents
	$(BIN)/python -m bench.nodes $(ARGS)

bench-peers: setup .venv-peers/.stamp ## measure Perdure beside other systems; ARGS="--write" puts it into the documents
	$(BIN)/python -m bench.peers $(ARGS)

.venv-peers/.stamp: bench/peers/setup bench/peers/requirements.txt bench/peers/package-lock.json
	@UV='$(UV)' bench/peers/setup

fuzz: setup ## send N hostile requests (100000) to all doors of a server; SEED=n for others
	$(BIN)/python -m tests.doors.fuzz --count $(or $(N),100000) --seed $(or $(SEED),1)

soak: setup ## steady load on a server that is killed every minute, for MINUTES=n (2)
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),2)

fmt: setup ## format, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve pyproject.toml anew into requirements/dev.txt (needs uv)
	@command -v uv >/dev/null || { echo 'lock: needs uv (pipx install uv)' >&2; exit 1; }
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	  --quiet --output-file requirements/dev.txt

lock-deploy: ## resolve deploy/check/requirements.in anew (needs uv)
	cd deploy/check && uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock-deploy' \
	  --quiet --output-file requirements.txt

lock-peers: ## resolve bench/peers/requirements.in anew (needs uv); Restate's lock is npm's
	cd bench/peers && uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock-peers' \
	  --quiet --output-file requirements.txt

clean: ## remove .venv, caches and build output
	rm -rf .venv .venv-deploy .venv-peers build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
