# Each target sets up .venv by itself, and only when it is missing or out of date.

PYTHON ?= python3
# Options of pip for PyTorch alone, such as an index of builds for the CPU or another CUDA.
TORCH_ARGS ?=
# Options added to the command of the target, as in: make bench BENCH_ARGS="--games Pong"
BENCH_ARGS ?=
TEST_ARGS ?=
PERF_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup bench test test-all perf check format clean

help:
	@echo "make setup     make .venv and install mgdt into it"
	@echo "make bench     benchmark the bundled agents (BENCH_ARGS=...)"
	@echo "make test      run the tests and the examples in docstrings (TEST_ARGS=...)"
	@echo "make test-all  the same, slow tests included"
	@echo "make perf      measure speed against peers, write perf.json (PERF_ARGS=...)"
	@echo "make check     check format, lint and types, then run the tests"
	@echo "make format    format the code and fix what can be fixed by itself"
	@echo "make clean     remove .venv and caches; replay stores, runs and results stay"
	@echo "Another Python: make setup PYTHON=python3.12"

setup: $(STAMP)

bench: $(STAMP)
	$(BIN)/mgdt-bench --agents dt,cql,bc,random $(BENCH_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(TEST_ARGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "" $(TEST_ARGS)

perf: $(STAMP)
	$(BIN)/python -m tests.perf.run $(PERF_ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(TEST_ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find mgdt_envs mgdt_agents cli tests -type d -name __pycache__ -prune -exec rm -rf {} +

# pip is the last thing that venv installs, so half a .venv is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) \
	    else "mgdt runs on Python 3.10 to 3.13, and $(PYTHON) is %d.%d: set PYTHON, as in make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear .venv

# PyTorch comes first and by itself, so that TORCH_ARGS reach no other package.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install -q -c constraints.txt $(TORCH_ARGS) torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
