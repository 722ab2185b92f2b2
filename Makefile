# Everything here sets itself up first: a virtual environment in .venv, from constraints.txt.
#   make run                     sample study, server, one case through all tasks, then keeps serving
#   make run ONESHOT=1           the same, stops after the case; status 0 only if all of it is right
#   make run STUDIES=folder      your own CTs: a folder of files, of DICOM series, or one series
#   make synthesis               brings what several machines and the refinement of lesions need
#   make study                   brings what `pasta study export` and `analyse` need
#   make dicom                   brings what DICOM objects and a PACS need
#   make test | test-slow | test-slicer | lint | benchmark
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STUDIES ?= studies
OUT ?= out
PORT ?= 8000
ONESHOT ?=
PYTEST_ARGS ?=
export PASTA_DATA ?= ../shared/data

.PHONY: help setup run study synthesis dicom test test-slow test-slicer lint format benchmark clean

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.stamp

$(VENV)/.stamp: constraints.txt pyproject.toml .ci/venv
	@.ci/venv $(VENV)

# apart, as `make run` needs none of it
$(VENV)/.stamp-%: $(VENV)/.stamp
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[$*]'
	@touch $@

study: $(VENV)/.stamp-study

synthesis: $(VENV)/.stamp-synthesis

dicom: $(VENV)/.stamp-dicom

run: $(VENV)/.stamp
	@$(BIN)/python -m pasta.cli.main demo "$(STUDIES)" --output "$(OUT)" --port "$(PORT)" $(if $(filter-out 0,$(ONESHOT)),--oneshot)

lint: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the packages of the Slicer tests come here, not with `make run`
test: lint $(VENV)/.stamp-study $(VENV)/.stamp-synthesis $(VENV)/.stamp-dicom
	@$(BIN)/python .ci/tests.py all $(PYTEST_ARGS)

test-slicer: $(VENV)/.stamp
	@$(BIN)/python .ci/tests.py slicer $(PYTEST_ARGS)

test-slow: $(VENV)/.stamp-study $(VENV)/.stamp-synthesis $(VENV)/.stamp-dicom
	$(BIN)/python -m pytest -m "slow and not gpu and not slicer" $(PYTEST_ARGS)

format: $(VENV)/.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/.stamp
	$(BIN)/python -m benchmarks $(BENCHMARK_ARGS)

clean:
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
