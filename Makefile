# The few commands a person needs. `make` alone lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# `make demo` runs on the embedded sample corpus; on your own text with
#   make demo RAW=<folder or s3://…> DOMAINS=law,tech,news
RAW     ?=
DOMAINS ?=

.PHONY: help setup demo dev test lint k8s-lint

help:
	@echo "make setup   create $(VENV) with every dependency pinned by constraints.txt"
	@echo "make demo    materialize the whole graph on the sample corpus"
	@echo "             on your own text: make demo RAW=<folder or s3://...> DOMAINS=law,tech"
	@echo "make dev     open the Dagster UI with the sample corpus ready"
	@echo "make test    lint, type-check and run the tests"
	@echo "make lint    ruff and mypy only"
	@echo "make k8s-lint  check what is deployed on Kubernetes (docs/deploy.md)"

setup: $(VENV)/.complete

# PEP 668 and old pips do not matter here: everything lives in the virtual environment.
$(VENV)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/python -m yunmin_assets.automation.local_run $(if $(RAW),--raw '$(RAW)') $(if $(DOMAINS),--domains '$(DOMAINS)')

dev: setup
	@$(BIN)/python -m yunmin_assets.automation.dev_server

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

k8s-lint: setup
	$(BIN)/python -m k8s.lint
