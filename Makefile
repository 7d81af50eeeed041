# `make demo` and `make test` do all the set-up on a fresh machine, once.
#
#   make demo     train the bundled tiny model from critiques and compare with scalar-reward RL
#   make check    ruff and mypy
#   make test     check, then every test
#   make test-verl   the verl plug-in inside verl, in an environment of its own
#   make clean    remove the environment, the caches and what the demo wrote

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# The first interpreter that runs and is 3.11 or newer; `make PYTHON=/path/to/python` overrides it.
# A name on the PATH may be a shim without a version behind it, so each one is tried.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH ?= torch==2.13.0
DEMO_OUT ?= runs/demo
DEMO_ARGS ?=
PYTEST_ARGS ?=

VERL_VENV ?= .venv-verl

.PHONY: demo test test-verl check format clean setup
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/didact demo --out $(DEMO_OUT) $(DEMO_ARGS)

# In two halves side by side, because one thread alone would take longer than anybody waits.
FIRST := $(wildcard tests/test_[abdeikmw]*.py tests/test_c[!o]*.py) tests/test_resume.py \
	tests/test_sources.py tests/test_store.py tests/test_sweep.py
SECOND := $(filter-out $(FIRST),$(wildcard tests/test_*.py)) tests/engines

test: check
	log=$(VENV)/first-half.log; first=0; second=0; \
	$(BIN)/pytest $(PYTEST_ARGS) $(FIRST) src >$$log 2>&1 & half=$$!; \
	$(BIN)/pytest $(PYTEST_ARGS) $(SECOND) || second=$$?; \
	wait $$half || first=$$?; cat $(VENV)/first-half.log; \
	exit $$((first > second ? first : second))

# Without its packages, as where there is no network, it says so and is no failure.
test-verl:
	@log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	$(MAKE) --no-print-directory $(VERL_VENV)/.installed >$$log 2>&1 || { \
		echo "skipped: the packages of constraints-verl.txt cannot be had here:"; \
		grep -i error $$log | tail -n 3 || tail -n 3 $$log; exit 0; }; \
	OMP_NUM_THREADS=1 $(VERL_VENV)/bin/python -m pytest -q --confcutdir=tests/integrations_verl -W default \
		-p no:cacheprovider $(PYTEST_ARGS) tests/integrations_verl

# An environment of its own, because verl pins other versions than Didact is tested with.
$(VERL_VENV)/.installed: pyproject.toml constraints-verl.txt
	[ -x $(VERL_VENV)/bin/python ] || "$(PYTHON)" -m venv $(VERL_VENV)
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-verl.txt \
		verl pytest pytest-timeout
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

setup: $(STAMP)

# torch goes first and alone: a build that is already chosen (CPU-only, or for one CUDA version, by
# PIP_INDEX_URL or TORCH) then satisfies the constraint and is not replaced.
$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Didact needs Python 3.11 or newer: install it, or run" \
		"'make PYTHON=/path/to/python3.11'" >&2; exit 2; }
	[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tasks,judges,math,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VERL_VENV) $(DEMO_OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests recipes benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
