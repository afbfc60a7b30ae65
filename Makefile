VENV := .venv
PYTHON := $(VENV)/bin/python
BIN := $(VENV)/bin
PROTOC := PATH="$(abspath $(BIN)):$$PATH" $(PYTHON) -m grpc_tools.protoc -Iproto
AGAINST ?= .git\#branch=main
.DEFAULT_GOAL := help
.PHONY: help setup test check proto check-proto

help:  ## Say what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(VENV)/.installed  ## Install everything into .venv (done by the other targets as needed).

$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,examples,dev]'
	touch $@

test: setup  ## Run all tests.
	$(PYTHON) -m pytest

check: setup check-proto  ## Lint, check types and layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: setup  ## Regenerate the protobuf modules beside their .proto files.
	$(PROTOC) --python_out=proto --mypy_out=quiet:proto $$(find proto -name '*.proto' | sort)
	$(PROTOC) --grpc_python_out=proto --mypy_grpc_out=quiet:proto $$(find proto -name '*_service.proto' | sort)

check-proto: proto  ## Lint the schemas; fail if they broke the wire or if the generated modules are stale.
	$(BIN)/buf lint
	$(BIN)/buf breaking --against '$(AGAINST)'
	git diff --exit-code -- proto
