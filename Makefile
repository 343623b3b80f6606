# Every target sets up what it needs: a virtual environment in .venv, made once and refreshed when
# pyproject.toml changes. `make PYTHON=python3.12 test` picks another interpreter for a new one.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := $(VENV)/.demo
DOCS   := $(VENV)/.docs

# `make test TESTFLAGS=` runs them in one process. Neighbours share what they set up, so they stay together.
TESTFLAGS ?= -n auto --dist worksteal

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Some hundred tests start an interpreter; each would compile all modules, and pytest rewrite all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-heavy test-engines lint format typecheck operators reference docs bench clean
.DELETE_ON_ERROR:

demo: $(DEMO)  ## prune a small trained network and show what it cost and gained
	$(BIN)/onnxprune demo

test: $(STAMP)  ## everything except the heavy tests; ROOM=graph runs one room
	$(BIN)/pytest $(TESTFLAGS) $(if $(ROOM),tests/$(ROOM))

test-heavy: $(STAMP)  ## only the tests that need minutes or gigabytes
	$(BIN)/pytest -m heavy $(TESTFLAGS)

test-engines: $(STAMP)  ## every network at hand, pruned every way, becomes a TensorRT engine
	$(BIN)/pytest -m 'engines and not heavy' $(TESTFLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP)
	$(BIN)/mypy

operators: $(STAMP)  ## docs/operators.md: which operator has which rules
	$(BIN)/python -m tests.graph.test_operators > docs/operators.md

docs: $(DOCS)  ## build/docs: the site, without warnings; then its code blocks, figures and search
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	ONNXPRUNE_DOCS=build/docs $(BIN)/pytest -m docs $(TESTFLAGS) tests/docs

reference: $(STAMP)  ## what is made from the options: stub, reference, recipe schema
	$(BIN)/python docs/generate.py

bench: $(STAMP)  ## coverage and correctness over every graph at hand; bench/README.md has the rest
	$(BIN)/python -m bench.structured --system onnxprune \
	    --results bench/results/structured_onnxprune.json
	$(BIN)/python -m bench.structured_table bench/results/structured_*.json

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(DEMO): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu]'
	touch $@

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev]'
	touch $@

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev,docs]'
	touch $@
