# Two commands matter: `make run` and `make test`. Both set up what they need first.
.PHONY: setup run test test-all lint bench clean
.DEFAULT_GOAL := help
VENV := .venv/bin
# Root only where a user may not make namespaces of their own.
ROOT := $(shell [ "$$(id -u)" = 0 ] || unshare --user --map-root-user --net true 2>/dev/null || command -v sudo)
export HF_HUB_OFFLINE ?= 1

help:
	@echo "make run    ten systems over one emulated link: a table and a report page"
	@echo "make test   lint, types, import contracts and tests      make test-all   the slow ones too"
	@echo "make bench  what the project promises, measured          make setup      what the others do first"

setup: .venv/.ready
.venv/.ready .venv/.ready-for-tests: pyproject.toml setup.cfg constraints.txt setup.sh
.venv/.ready:
	@./setup.sh
	@touch $@
.venv/.ready-for-tests:
	@./setup.sh tests
	@touch .venv/.ready $@

run: setup
	$(ROOT) $(VENV)/dssd run experiments/configs/quickstart.yaml

lint: .venv/.ready-for-tests
	$(VENV)/ruff check .
	$(VENV)/ruff format --check --quiet .
	$(VENV)/mypy
	$(VENV)/lint-imports

# Two at a time: most of a test's time is spent waiting for the processes that it started.
test: lint
	$(VENV)/pytest -n 2 --dist loadfile

test-all: lint
	$(VENV)/pytest -m ""

bench: .venv/.ready-for-tests
	$(ROOT) $(VENV)/dssd bench --out bench.json

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
