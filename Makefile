# Each target sets up .venv by itself, and only when it is missing or out of date.

PYTHON ?= python3
# Options of pip for PyTorch alone, such as an index of builds for the CPU or another CUDA.
TORCH_ARGS ?=
# Options added to the command of the target, as in: make bench BENCH_ARGS="--games Pong"
BENCH_ARGS ?=
TEST_ARGS ?=
PERF_ARGS ?=

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECK_STAMP := $(VENV)/.installed-check
# Python compiles what it imports, a small part of all that is installed.
INSTALL := $(BIN)/pip install -q --no-compile -c constraints.txt
FRESH := build/fresh
RLLIB := .venv-rllib

.PHONY: help setup quickstart bench test test-all test-rllib perf check lint types chromium docs wheel format clean

help:
	@echo "make setup     make .venv and install mgdt into it"
	@echo "make quickstart  regenerate play of two games and train a small agent on it: some minutes"
	@echo "make bench     benchmark the bundled agents (BENCH_ARGS=...)"
	@echo "make test      run the tests and the examples in docstrings (TEST_ARGS=...)"
	@echo "make check     check format, lint and types, run the tests with all extras, RLlib's, try the wheel"
	@echo "make test-all  all tests, slow ones included, and make test on each other Python here"
	@echo "make test-rllib  test RLlib, in an environment of its own"
	@echo "make docs      build the documentation site into build/site"
	@echo "make wheel     build the wheel, install it into a fresh environment, play there"
	@echo "make perf      measure speed against peers, write perf.json (PERF_ARGS=...)"
	@echo "make format    format the code and fix what can be fixed by itself"
	@echo "make clean     remove .venv and caches; replay stores, runs and results stay"
	@echo "Another Python: make setup PYTHON=python3.12"

setup: $(STAMP)

# Play of medium skill in two games, regenerated, and a small agent that learns from it.
quickstart: $(STAMP)
	$(BIN)/mgdt-replay expand --games Pong,Breakout --split medium --environments 8
	$(BIN)/mgdt-train --agent dt --size small --replay replay/Pong-medium,replay/Breakout-medium \
	    --steps 1000 --batch-size 64 --optimizer adamw --learning-rate 1e-3 --warmup-steps 100 \
	    --decay cosine --output runs/quickstart

# The first of the 16 episodes a game that the README has, so that it takes minutes.
bench: $(STAMP)
	$(BIN)/mgdt-bench --agents dt,cql,bc,random --episodes 6 --workers 2 $(BENCH_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(TEST_ARGS)

# Two things at a time, as each uses one core; then the tests, on every core.
check: chromium lint
	$(MAKE) --no-print-directory -j2 wheel types test-rllib docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal --packages-required $(TEST_ARGS)

lint: $(CHECK_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(CHECK_STAMP)
	$(BIN)/mypy

# Pages are tested in Debian's browser, which only root can install; else their tests say so.
chromium:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	    { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }

# Python 3.10 to 3.13, as far as they are there: on the path, or among pyenv's.
test-all: $(CHECK_STAMP)
	$(BIN)/python -m pytest --packages-required -m "" $(TEST_ARGS)
	@set -e; for minor in 10 11 12 13; do \
	    for python in python3.$$minor $$HOME/.pyenv/versions/3.$$minor.*/bin/python; do \
	        $$python -c "import sys; sys.exit(sys.version_info[:2] != (3, $$minor))" 2>/dev/null || continue; \
	        $(BIN)/python -c "import sys; sys.exit(sys.version_info[:2] == (3, $$minor))" || break; \
	        echo "Python 3.$$minor: $$python"; \
	        $(MAKE) test PYTHON=$$python VENV=.venv-3.$$minor; \
	        break; \
	    done; \
	done

# RLlib pins a Gymnasium of its own, which lies over the packages of .venv, mgdt among them, with
# what RLlib needs beside them. pytest says with status 5 that it skipped all tests.
test-rllib: $(RLLIB)/.installed
	OMP_NUM_THREADS=1 $(RLLIB)/bin/python -m pytest tests/mgdt_agents/online/test_rllib.py

$(RLLIB)/.installed: $(STAMP)
	$(BIN)/python -m venv --clear $(RLLIB)
	$(BIN)/python -c 'from sysconfig import get_path; print("import site; site.addsitedir(%r)" % get_path("purelib"))' \
	    > "$$($(RLLIB)/bin/python -c 'from sysconfig import get_path; print(get_path("purelib"))')/venv.pth"
	sed 's/^gymnasium==.*/gymnasium==1.2.2/' constraints.txt > $(RLLIB)/constraints.txt
	$(RLLIB)/bin/pip install -q --no-compile -c $(RLLIB)/constraints.txt 'mgdt[rllib]' || { \
	    echo "RLlib was not installed; pip says why. Where Ray has no wheel for this Python and system," \
	    "RLlib cannot be tested and make check does not pass; make test needs no Ray." >&2; exit 1; }
	@touch $@

# Warnings, broken links among them, are errors; with -q mkdocs would not see them.
docs: $(CHECK_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# PyTorch, the largest by far, is that of .venv. The game is played in an empty folder, so that
# nothing of the repository is found, and by one thread: make check does something else at the same
# time, and two threads each slow one another.
wheel: $(CHECK_STAMP)
	rm -rf dist $(FRESH)
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m venv $(FRESH)
	ln -s $(abspath $(VENV))/lib/python3*/site-packages/torch $(abspath $(VENV))/lib/python3*/site-packages/torchgen \
	    $(abspath $(VENV))/lib/python3*/site-packages/torch-*.dist-info $(FRESH)/lib/python3*/site-packages
	$(FRESH)/bin/pip install -q --no-compile -c constraints.txt dist/*.whl
	mkdir $(FRESH)/empty
	cd $(FRESH)/empty && OMP_NUM_THREADS=1 ../bin/mgdt-bench --agents dt --games Breakout --episodes 1

perf: $(STAMP)
	$(BIN)/python -m tests.perf.run $(PERF_ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find mgdt_envs mgdt_agents cli tests -type d -name __pycache__ -prune -exec rm -rf {} +

# pip is the last thing that venv installs, so half a .venv is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) \
	    else "mgdt runs on Python 3.10 to 3.13, and $(PYTHON) is %d.%d: set PYTHON, as in make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear $(VENV)

# PyTorch comes first and by itself, so that TORCH_ARGS reach no other package.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) $(TORCH_ARGS) torch
	$(INSTALL) -e '.[dev,report,video]'
	@touch $@

# timm without its dependencies, torchvision among them: a test needs its optimizers alone.
$(CHECK_STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) $(TORCH_ARGS) torch
	$(INSTALL) -e '.[dev,check,docs,all]'
	$(INSTALL) --no-deps timm
	@touch $(STAMP) $@
