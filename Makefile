# Four commands do everything, from nothing but python3 (3.11 or later) and make:
#   make train [ARGS="--config=configs/isic9.py --data_dir=..."]   trains and evaluates
#   make test                                                      formats, lints, checks, tests
#   make test-all                                                  also what takes longer
#   make docs                                                      builds the site in build/site
# And one that takes longer, and installs other frameworks in folders of their own:
#   make bench [BENCH_ARGS="--peers=pytorch,pfl"]                  rounds beside other frameworks';
#                                             what it found is in benchmarks/latest.json, too
PYTHON ?= python3
VENV ?= .venv
ARGS ?= --config=configs/lesions.py
DOCS_VENV ?= .venv-docs
PYTEST_ARGS ?=
BENCH_ARGS ?=
# In CI a badly formatted file is an error; elsewhere it is formatted.
FORMAT = $(if $(CI),--check,)
BIN = $(VENV)/bin

.PHONY: train test test-all docs bench format lint types pytest test-slow client-maps clean

train: $(VENV)/installed
	$(BIN)/fedjax-med train --evaluate $(ARGS)

# mypy takes only one core.
test: format lint
	$(MAKE) -j2 types pytest

# What is long by nature: whole runs, the other client maps, the wheel, the site.
test-all: test test-slow client-maps test-wheel docs

format: $(VENV)/installed-dev
	$(BIN)/ruff format $(FORMAT) .

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

pytest: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m slow $(PYTEST_ARGS)

# The commands under the ways to map over clients that `auto` does not pick on a CPU.
client-maps: $(VENV)/installed-dev
	for name in vmap sharded; do \
	  $(BIN)/python -m pytest -n 2 -m every_client_map --map-clients=$$name || exit 1; done

%/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"expected Python 3.11 or later, got {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $*

# The lock has every package with its hash; the project itself comes last, without its own look-up.
$(VENV)/installed: $(BIN)/python requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-dev: $(BIN)/python requirements-dev.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/installed

# Every page is built or the build fails: a broken link, an unknown name, anything loaded from outside.
docs: $(DOCS_VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "The site is in build/site: $(PYTHON) -m http.server --directory build/site"

$(DOCS_VENV)/installed: $(DOCS_VENV)/bin/python requirements-docs.lock
	$(DOCS_VENV)/bin/python -m pip install --quiet --require-hashes -r requirements-docs.lock
	@touch $@

bench: $(VENV)/installed
	$(BIN)/python benchmarks/rounds.py --json=benchmarks/latest.json $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(DOCS_VENV) .venv-3.* build dist .mypy_cache .pytest_cache .ruff_cache *.egg-info

# The source archive, and from it the wheel: neither can hold files that an earlier build left.
.PHONY: wheel test-wheel
wheel: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -c 'from setuptools import build_meta as b; b.build_sdist("dist", {"quiet": True})'
	$(BIN)/python -m pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

test-wheel: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m wheel tests/packaging
