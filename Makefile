VENV := .venv
PYTHON := $(VENV)/bin/python
BIN := $(VENV)/bin
PROTOC := PATH="$(abspath $(BIN)):$$PATH" $(PYTHON) -m grpc_tools.protoc -Iproto
AGAINST ?= .git\#branch=main
.DEFAULT_GOAL := help
.PHONY: help setup demo test check proto check-proto bench bench-bus bench-learner

help:  ## Say what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(VENV)/.installed  ## Install everything into .venv (done by the other targets as needed).

$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,examples,dev]'
	touch $@

demo: setup  ## Train a small vision-language model on four tasks over handwritten digits.
	$(BIN)/tristream up examples/digits/run.toml --again

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

bench: bench-learner bench-bus  ## Measure everything; see bench/README.md.

bench-bus: setup  ## Time a step on the bus beside the same work in one process.
	$(PYTHON) -m bench.bus

bench-learner: setup  ## Time the learner's step beside a bare one in plain torch.
	$(PYTHON) -m bench.learner
