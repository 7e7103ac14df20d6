# The project's commands; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Dagster's runs, schedules and logs; `make sync` and `make dev` share them.
export DAGSTER_HOME ?= $(CURDIR)/.dagster
# Age at which old runs, logs and rows of rmm_syncs are deleted every night; empty to keep them.
export RMM_PRUNE_AFTER ?= 90d
export DO_NOT_TRACK := 1
export RUNTIME__DLTHUB_TELEMETRY := false

.DEFAULT_GOAL := help
.PHONY: help install sync dev test test-fast test-newest test-oldest test-embedded-elt lint format clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

$(STAMP): setup.cfg constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the versions in constraints.txt into $(VENV) ..."
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Never overwrites an existing file: DAGSTER_HOME may be the user's own.
$(DAGSTER_HOME)/dagster.yaml:
	@mkdir -p $(DAGSTER_HOME) && cp -n dagster.yaml $@

install: $(STAMP) ## Install everything into .venv

sync: $(STAMP) $(DAGSTER_HOME)/dagster.yaml ## Install, materialize the demo connection and print a summary
	@$(BIN)/rmm sync demo

WORKSPACES ?= workspace.yaml
# `dagster dev` recommends `dg dev`, which does not read workspace.yaml.
dev: $(STAMP) $(DAGSTER_HOME)/dagster.yaml ## Open Dagster's UI on 127.0.0.1
	@ulimit -c 0 && PYTHONWARNINGS='ignore:Function `dev_command`:FutureWarning' $(BIN)/dagster dev --host 127.0.0.1 $(WORKSPACES:%=--workspace %)

test: $(STAMP) ## Run all tests
	@$(BIN)/pytest -n 3 --dist loadscope --no-loadscope-reorder

test-fast: $(STAMP) ## Run the tests that neither start processes nor load data (less than a minute)
	@$(BIN)/pytest -n 3 -m 'not slow'

# Runs tests in a separate environment with other versions: $(call other,NAME,PIP ARGUMENTS,PYTEST ARGUMENTS)
# Without pins, the pip of Python 3.11 searches for versions that fit each other for ever.
define other
	@test -x .venv-$(1)/bin/python || $(PYTHON) -m venv .venv-$(1)
	@.venv-$(1)/bin/pip install -qq --disable-pip-version-check 'pip>=25'
	@.venv-$(1)/bin/pip install -qq --disable-pip-version-check $(2)
	@PATH="$(CURDIR)/.venv-$(1)/bin:$$PATH" .venv-$(1)/bin/pytest -n 2 $(3)
endef
FAST := -m 'not slow'
# In a variable, because a comma would end the argument.
EMBEDDED := '.[embedded-elt,dev]'
OLDEST := '.[ducklake,dev]' duckdb-extensions duckdb-extension-ducklake

test-newest: ## Run the fast tests with the newest versions allowed by setup.cfg
	$(call other,newest,--upgrade --upgrade-strategy eager -e '.[dev]',$(FAST))

test-oldest: ## Run the fast tests and those of DuckLake with the oldest versions allowed by setup.cfg
	$(call other,oldest,-c constraints-oldest.txt -e $(OLDEST),-m 'not slow or ducklake')

test-embedded-elt: ## Run all tests with dagster-embedded-elt (ONLY='-m "not slow"' for the fast tests)
	$(call other,embedded-elt,-c constraints-embedded-elt.txt -e $(EMBEDDED),--dist loadscope --no-loadscope-reorder $(ONLY))

# Celery and Dagster's storage in PostgreSQL need versions that the others do not, so they have an environment of their own.
CLUSTER := .venv-cluster
$(CLUSTER)/.installed: setup.cfg deploy/constraints.txt
	@test -x $(CLUSTER)/bin/python || $(PYTHON) -m venv $(CLUSTER)
	@$(CLUSTER)/bin/pip install -qq --disable-pip-version-check -c deploy/constraints.txt -e '.[celery,kubernetes,postgres]' pytest kubernetes-validate
	@touch $@

cluster: $(CLUSTER)/.installed ## Run a cluster on this machine: PostgreSQL, Redis and two Celery workers load 20 connections (Ctrl-C stops it)
	@$(CLUSTER)/bin/python -m rmm_assets_tests.cluster.run

test-cluster: $(CLUSTER)/.installed ## Test the cluster: a worker is killed, and its run starts again on the other; and the services of deploy/compose (five minutes)
	@$(CLUSTER)/bin/pytest -q rmm_assets_tests/cluster/celery_cluster.py rmm_assets_tests/deploy/kubernetes_values.py rmm_assets_tests/deploy/compose_services.py

.PHONY: cluster test-cluster

lint: $(STAMP) ## Check style (ruff), imports between packages (import-linter) and types (mypy, strict)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

clean: ## Remove the environments, data, logs and build files
	@rm -rf $(VENV) .venv-* .dagster data build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# `make sync-acme` runs `rmm sync acme` with this folder's Dagster instance.
sync-%: $(STAMP) $(DAGSTER_HOME)/dagster.yaml
	@$(BIN)/rmm sync $*

docs: $(STAMP) ## Build the docs into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict && echo "The docs are in site/index.html."

screenshots: $(STAMP) ## Retake the screenshots for README and docs
	@RMM_PICTURES=$(CURDIR)/docs/images $(BIN)/pytest --quiet rmm_assets_tests/browser

.PHONY: docs screenshots

bench: $(STAMP) ## Benchmark against plain dlt and a hand-written load (takes half an hour)
	@$(BIN)/pip install -qq --disable-pip-version-check -r benchmarks/requirements.txt
	@mkdir -p data && $(BIN)/python -m benchmarks.run main --latency 0,20 --markdown data/bench.md --json data/bench.json --plot data/bench.svg

bench-peers: $(STAMP) ## Benchmark against singer-sdk and PyAirbyte, too
	@$(BIN)/pip install -qq --disable-pip-version-check -r benchmarks/requirements.txt
	@mkdir -p data && $(BIN)/python -m benchmarks.run main --latency 0,20 --peers --markdown data/bench.md --json data/bench.json --plot data/bench.svg

bench-second: $(STAMP) ## Benchmark a second sync in which 1 % of 100,000 rows changed (ten minutes)
	@$(BIN)/pip install -qq --disable-pip-version-check -r benchmarks/requirements.txt
	@$(BIN)/python -m benchmarks.run second-sync --only a,b,d,e,f

bench-large: $(STAMP) ## Benchmark 10,000,000 rows: does memory grow with the table? (an hour)
	@$(BIN)/pip install -qq --disable-pip-version-check -r benchmarks/requirements.txt
	@BENCH_DUCKDB_MEMORY=256MB $(BIN)/python -m benchmarks.run large --runs 1 --only e --timeout 7200

bench-tenants: $(STAMP) ## Benchmark a connection with 1, 100 and 1,000 tenants (half an hour)
	@$(BIN)/python -m benchmarks.tenants

bench-postgres: $(STAMP) ## Benchmark two syncs into PostgreSQL (ten minutes; apt-get install postgresql)
	@$(BIN)/pip install -qq --disable-pip-version-check -r benchmarks/requirements.txt
	@$(BIN)/python -m benchmarks.postgres

.PHONY: bench bench-peers bench-second bench-large bench-postgres bench-tenants

property: $(STAMP) ## Test 2,000 generated servers, 300 sequences of runs, more generated rows and changes of a file (set RMM_SERVERS, RMM_SEQUENCES to change)
	@RMM_EXAMPLES=all RMM_SERVERS=$${RMM_SERVERS:-2000} RMM_SEQUENCES=$${RMM_SEQUENCES:-300} $(BIN)/pytest -n 2 --dist load -q rmm_assets_tests/rows rmm_assets_tests/config/test_no_value_is_repeated.py rmm_assets_tests/test_example.py rmm_assets_tests/integration/test_property_completeness.py rmm_assets_tests/integration/test_property_landing.py rmm_assets_tests/loading/test_misfits.py

.PHONY: property

kills: $(STAMP) ## Kill loads into each kind of destination at every statement, one at a time (half an hour; RMM_KILLS=10 for fewer)
	@RMM_KILLS=$${RMM_KILLS:-1000} $(BIN)/pytest -n 2 --dist load -q rmm_assets_tests/integration/test_kills.py

.PHONY: kills

soak: $(STAMP) ## Run ten connections 300 times, half of the runs on a bad day, and look at what is left (half an hour; RUNS=50 for fewer)
	@$(BIN)/python -m rmm_assets_tests.soak.run --runs $(or $(RUNS),300)

.PHONY: soak

# Kinto needs packages that the others do not, so it has an environment of its own.
.venv-kinto/bin/kinto:
	@test -x .venv-kinto/bin/python || $(PYTHON) -m venv .venv-kinto
	@.venv-kinto/bin/pip install -qq --disable-pip-version-check kinto==26.5.0 || echo "Kinto could not be installed: its tests are skipped."

servers: $(STAMP) .venv-kinto/bin/kinto ## Read from Kinto and the installed servers of Debian: RabbitMQ, PowerDNS, Icinga 2, JupyterHub, Redmine (20 minutes)
	@$(BIN)/pytest -q rmm_assets_tests/integration/installed_*.py

.PHONY: servers

mutants: $(STAMP) ## Break promises in a copy of the code one at a time, and print those that no test notices (ONLY=reading for some)
	@$(BIN)/python -m rmm_assets_tests.mutation.run $(ONLY)

.PHONY: mutants
