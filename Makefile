# Each target makes its own environment when it is missing or when what it needs has changed.
#   make demo                        train gpt2.Nano on real text for about a minute
#   make test                        the whole suite;  make test-fast leaves out the slow tests
#   make test-optimized              the suite with all programs compiled as users' are (longer)
#   make lint                        format, lint and types, as .ci/run checks them
#   make test PYTHON=python3.11 VENV=.venv-3.11      another interpreter beside the first
# Python 3.12 where one is found that runs: jax is later there, and faster on CPUs.
PYTHON ?= $(or $(shell .ci/find_python 3.12),python3)
VENV ?= .venv
# One more than the cores of a small machine: tests also wait for processes and signals.
WORKERS ?= 3
EXTRAS ?= dev

INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

.PHONY: install demo test test-fast test-optimized lint format clean
.DEFAULT_GOAL := test

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Making $(VENV) with $(PYTHON): some 150 packages, 3 GB with jax and TensorFlow, take one to ten minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt
	touch $@

demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/runner --exp=gpt2.Nano --workdir=runs/demo
	@echo "Your shell finds runner after: . $(BIN)/activate"

test: $(INSTALLED)
	$(PYTEST)

test-fast: $(INSTALLED)
	$(PYTEST) -m "not slow"

test-optimized: $(INSTALLED)
	STRATA_TESTS_OPTIMIZED=1 $(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What was built; runs/ holds results and stays.
clean:
	rm -rf .venv .venv-* *.egg-info build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
