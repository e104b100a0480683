# One word per job; CI calls the same words. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
.DEFAULT_GOAL := help
.PHONY: help setup demo serve test long simulate ablations bench peers history check format openapi lock clean

help:            ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## a virtual environment in .venv with the locked dependencies

$(STAMP): requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Bursar needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $(STAMP)

demo: setup      ## run the service on 127.0.0.1:8000; without a key against the built-in simulator
	@$(BIN)/python -m app demo

serve: setup     ## run the service (needs ANTHROPIC_API_KEY or ANTHROPIC_BASE_URL)
	@$(BIN)/python -m app serve

JOBS ?= 4
test: setup      ## all tests, JOBS=4 side by side: many of them wait (recorded traffic too, where BURSAR_CORPUS names it)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

long: setup      ## what takes longer than a few minutes: the full kill loops
	$(BIN)/python -m pytest -m long -o addopts="-ra --import-mode=importlib"

SEEDS ?= 1000
FIRST ?= 0
simulate: setup  ## SEEDS=5000 worlds with crashes, stalls and lost locks under virtual time, from seed FIRST on
	$(BIN)/python -W error -m tests.simulation --seeds $(SEEDS) --first $(FIRST)

ablations: setup ## each safeguard taken away, until the simulation notices: docs/ablations.md
	$(BIN)/python -W error -m tests.simulation --ablations --write docs/ablations.md

bench: setup     ## the figures of the README: CPU per task against the bare SDK loop
	$(BIN)/python -m bench

peers:           ## libraries of the field, in .venv-peers: `make bench` then measures them, too
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bench/peers.txt

TASKS ?= 100000
history: setup   ## the same requests to a store with TASKS=1000000 finished tasks and to one with next to none
	$(BIN)/python -m bench.history --tasks $(TASKS)

check: setup     ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup    ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: setup   ## regenerate openapi/openapi.json
	$(BIN)/python -m app openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

lock: setup      ## lock the dependencies of pyproject.toml, with hashes
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras --no-emit-index-url -o requirements.txt pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras --no-emit-index-url --extra dev -o requirements-dev.txt pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras --no-emit-index-url -o bench/peers.txt bench/peers.in

clean:           ## remove the virtual environment and caches (never the data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
