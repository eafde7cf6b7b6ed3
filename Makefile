# Two commands do everything, from nothing but python3 (3.11 or later) and make:
#   make train [ARGS="--config=configs/isic9.py --data_dir=..."]   trains and evaluates
#   make test                                                      formats, lints, checks, tests
# And one that takes longer, and installs other frameworks in folders of their own:
#   make bench [BENCH_ARGS="--peers=pytorch,pfl"]                  rounds beside other frameworks';
#                                             what it found is in benchmarks/latest.json, too
PYTHON ?= python3
VENV ?= .venv
ARGS ?= --config=configs/lesions.py
PYTEST_ARGS ?=
BENCH_ARGS ?=
# In CI a badly formatted file is an error; elsewhere it is formatted.
FORMAT = $(if $(CI),--check,)
BIN = $(VENV)/bin

.PHONY: train test bench format lint types pytest client-maps clean

train: $(VENV)/installed
	$(BIN)/fedjax-med train --evaluate $(ARGS)

test: format lint types pytest client-maps

format: $(VENV)/installed-dev
	$(BIN)/ruff format $(FORMAT) .

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

pytest: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

# The commands under the ways to map over clients that `auto` does not pick on a CPU; not where the
# tests to run were chosen.
client-maps: pytest
	$(if $(PYTEST_ARGS),,for name in vmap sharded; do \
	  $(BIN)/python -m pytest -n 2 -m every_client_map --map-clients=$$name || exit 1; done)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"expected Python 3.11 or later, got {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# The lock has every package with its hash; the project itself comes last, without its own look-up.
$(VENV)/installed: $(BIN)/python requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-dev: $(BIN)/python requirements-dev.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/installed

bench: $(VENV)/installed
	$(BIN)/python benchmarks/rounds.py --json=benchmarks/latest.json $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .venv-3.* .mypy_cache .pytest_cache .ruff_cache *.egg-info
