# Every target does its own set-up. Caches live under the user's cache folder, never in the checkout
# (but for .venv, which is linked from the cache in seconds).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Bytecode is kept, also where the shell asks for none: torch takes four times as long to start without.
unexport PYTHONDONTWRITEBYTECODE

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/seedbed
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
STAMP := $(VENV)/.seedbed-stamp
CLUSTER ?= dev

.PHONY: help setup demo demo-cluster test test-unit test-integration test-e2e \
	test-seeds-cluster lint format cluster-up cluster-down cluster-status image bench bench-kill \
	coverage-map generate lock clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make the Python environment in .venv

$(STAMP): pyproject.toml requirements/dev.lock requirements/bootstrap.lock hack/environment.py
	@python3 hack/environment.py $(VENV)
	@touch $@

demo: setup ## Run real agents and a workflow in one process: examples/quickstart
	@$(BIN)/seedbed run examples/quickstart

demo-cluster: setup ## The same manifests on a real Kubernetes, by Helm and kubectl
	@$(PYTHON) -m hack.demo_cluster --name $(CLUSTER)

test: setup ## Every test: unit, integration on real servers, end to end on a real node
	@$(PYTHON) -m hack.prepare_tests
	@$(PYTHON) -m pytest -q --durations=15 -n 2 --no-loadscope-reorder \
		tests/e2e tests/integration tests/unit

test-unit: setup ## Only the tests without processes
	@$(PYTHON) -m pytest -q tests/unit

test-integration: setup ## Only the tests against real servers
	@$(PYTHON) -m hack.prepare_tests
	@$(PYTHON) -m pytest -q tests/integration

test-e2e: setup ## Only the tests on a real node
	@$(PYTHON) -m hack.prepare_tests
	@$(PYTHON) -m pytest -q tests/e2e

test-seeds-cluster: setup ## SeedLayers on a real node: their image with torch (6 GB), a kill in every stage
	@$(PYTHON) -m hack.prepare_tests
	@$(PYTHON) -m pytest -q --durations=15 tests/chaos/test_seed_pods.py

lint: setup ## Formatting, rules, types, boundaries, drift of generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTHON) -m hack.import_contracts
	@$(PYTHON) -m seedbed.crds.generate --check

format: setup ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

generate: setup ## Make the CRDs and the reference pages from the models
	@$(PYTHON) -m seedbed.crds.generate
	@$(PYTHON) -m hack.openapi

cluster-up: setup ## Start a local Kubernetes, or find the one there is
	@$(PYTHON) -m hack.cluster up --name $(CLUSTER)

cluster-down: setup ## End what cluster-up started
	@$(PYTHON) -m hack.cluster down --name $(CLUSTER)

cluster-status: setup ## Show the local Kubernetes
	@$(PYTHON) -m hack.cluster status --name $(CLUSTER)

image: setup ## Build the container image without a registry
	@$(PYTHON) -m hack.image build

# Not among them: kill (below), and routing, savings and semantic_cache, which want data sets of your own.
BENCHES := reconcile first_run workflow checkpoint events critical_path optimise decompose replan \
	llm_gateway batching prompts seeds seed_lifecycle sustained large_plan

bench: setup ## The benchmarks; each prints one JSON object as its last line
	@$(PYTHON) -m hack.prepare_tests
	@for bench in $(BENCHES); do echo "== $$bench"; $(PYTHON) -m hack.bench.$$bench; done

bench-kill: setup ## An engine killed 100 times in one run; takes a quarter of an hour
	@$(PYTHON) -m hack.prepare_tests
	@$(PYTHON) -m hack.bench.kill

coverage-map: setup ## Which rows of the catalogue have tests
	@$(PYTHON) -m hack.coverage_map

lock: setup ## Pin every dependency with hashes
	@$(PYTHON) hack/environment.py --lock

clean: ## Remove the Python environment; caches stay
	@rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
