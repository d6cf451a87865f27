# Everything a newcomer needs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
TRAIN_VENV := .venv-train
BIN := $(VENV)/bin
TRAIN_BIN := $(TRAIN_VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt
PACKAGES := vision training detection classification style_maskrcnn services

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-train demo serve test test-all lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/.serving  ## install what serving needs into .venv
setup-dev: $(VENV)/.dev  ## add the test and lint tools
setup-train: $(TRAIN_VENV)/.train  ## install the training frameworks into .venv-train

$(VENV)/.serving: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing vestiary into $(VENV) …"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serving
	@echo "Installing the test and lint tools into $(VENV) …"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[dev]'
	@touch $@

$(TRAIN_VENV)/.train: pyproject.toml constraints.txt
	@test -x $(TRAIN_BIN)/python || $(PYTHON) -m venv $(TRAIN_VENV)
	@echo "Installing the training frameworks into $(TRAIN_VENV), several GB …"
	@$(TRAIN_BIN)/python -m pip install $(PIP_FLAGS) --editable '.[dev,train]'
	@touch $@

demo: setup  ## run the main job once on a sample photo
	@$(BIN)/vestiary demo --output output

serve: setup  ## serve the API on http://127.0.0.1:8000
	@$(BIN)/vestiary serve

test: setup-dev  ## run the tests that need no training framework
	@$(BIN)/python -m pytest -q

test-all: setup-train  ## run all tests, training included
	@$(TRAIN_BIN)/python -m pytest -q

lint: setup-dev  ## ruff, mypy, import rules, compose file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

bench: setup-dev  ## measure speed as ratios taken in one run
	@$(BIN)/python -m benchmarks.pipeline

clean:  ## remove environments, caches and output
	rm -rf $(VENV) $(TRAIN_VENV) output .mypy_cache .ruff_cache .pytest_cache .hypothesis
