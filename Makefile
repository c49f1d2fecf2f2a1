# `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint docs clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/pip install --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --editable '.[test]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --editable '.[docs]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/kdscope demo --out runs/demo

test: $(VENV)/.installed-test
	$(BIN)/pytest -n auto --dist loadfile -m "not slow"

# And what takes long: every study at its smallest, and runs that are killed.
test-all: $(VENV)/.installed-test
	$(BIN)/pytest -n auto --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The pages, into build/site.
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
