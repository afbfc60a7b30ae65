PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
TORCH_CPU := $(PIP_INSTALL) --no-deps --retries 1 --timeout 4 --index-url https://download.pytorch.org/whl/cpu torch
PROTOC := PATH="$(abspath $(BIN)):$$PATH" $(PYTHON) -m grpc_tools.protoc -Iproto
AGAINST ?= .git\#branch=main
SEEDS ?= 10

# What .venv is made from: a Python (PYTHON3 if it is given, else the one inside), this folder, the requirements, the lock.
# Where any of it differs, or the Python inside does not run, .venv is made anew; the checksum is written last, so half a .venv is too.
FINGERPRINT := { $(if $(filter file,$(origin PYTHON3)),$(PYTHON),$(PYTHON3)) -VV && pwd \
	&& sed '/^\[tool\.mypy\]/q' pyproject.toml && cat constraints.txt; } 2>&1 | cksum
ifneq ($(shell $(PYTHON) -V >/dev/null 2>&1 && cat $(VENV)/.installed 2>&1),$(shell $(FINGERPRINT)))
.PHONY: $(VENV)/.installed
endif

.DEFAULT_GOAL := help
.PHONY: help setup lock demo test fuzz-verifiers chaos check proto check-proto bench bench-bus bench-learner bench-memory bench-assembler soak

help:  ## Say what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(VENV)/.installed  ## Install everything into .venv (done by the other targets as needed).

$(VENV)/.installed:
	$(if $(filter True,$(shell $(PYTHON3) -c 'import sys; print(sys.version_info >= (3, 11))' 2>&1 | cat)),,$(error \
	Python 3.11 or newer is needed, $(PYTHON3) is none ($(shell $(PYTHON3) -V 2>&1 | head -n 1)): make setup PYTHON3=python3.11))
	$(PYTHON3) -m venv --clear $(VENV)
	nvidia-smi >/dev/null 2>&1 || $(TORCH_CPU) 2>/dev/null || echo "torch's CPU build is out of reach; taking the ordinary one"
	$(PIP_INSTALL) --editable '.[local,examples,dev]'
	$(FINGERPRINT) > $@

lock: setup  ## Pin in constraints.txt what .venv holds, after an upgrade or a new requirement there.
	{ grep '^#' constraints.txt; $(BIN)/pip freeze --exclude-editable --exclude setuptools \
		| grep -vE '^(cuda|nvidia|triton)' | sed 's/+.*//' | LC_ALL=C sort -f; } > $(VENV)/lock
	mv $(VENV)/lock constraints.txt

demo: setup  ## Train a small vision-language model on four tasks over handwritten digits.
	$(BIN)/tristream up examples/digits/run.toml --again

test: setup  ## Run all tests, TEST_PROCESSES=2 files at a time: most of them wait for processes of their own.
	$(PYTHON) -m pytest --numprocesses=$(or $(TEST_PROCESSES),2) --dist=loadfile

fuzz-verifiers: setup  ## Try FUZZ_INPUTS=100000 absurd answers, truths and parameters on each built-in verifier (12 minutes).
	FUZZ_INPUTS=$(or $(FUZZ_INPUTS),100000) $(PYTHON) -m pytest tests/verifiers/test_fuzz.py -s

chaos: setup  ## Kill, freeze and cut off all parts and the broker of runs on Apache Kafka, at random from SEEDS=10 seeds.
	$(if $(KAFKA_HOME),,$(error The broker is killed too, so it must keep its log: make chaos KAFKA_HOME=/path/to/kafka))
	@echo "Runs that compute nothing, of thousands of steps in all: $(SEEDS) with random faults (kills, freezes, members that come"
	@echo "and go, a broker that goes), and a kill at every point, and pair of points, of the parts. After each, its journal, and"
	@echo "what the audit accounts for; a run that does not balance is a failure."
	CHAOS_SEEDS=$(SEEDS) CHAOS_PAIRS=1000 CHAOS_STEPS=500 CHAOS_FAULTS=15 $(PYTHON) -m pytest tests/chaos tests/integration/test_verifier_life.py -s

check: setup check-proto  ## Lint, check types, layers and the rules of the house.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTHON) -m pytest -q tests/house

proto: setup  ## Regenerate the protobuf modules beside their .proto files.
	$(PROTOC) --python_out=proto --mypy_out=quiet:proto $$(find proto -name '*.proto' | sort)
	$(PROTOC) --grpc_python_out=proto --mypy_grpc_out=quiet:proto $$(find proto -name '*_service.proto' | sort)

check-proto: proto  ## Lint the schemas; fail if they broke the wire or if the generated modules are stale.
	$(BIN)/buf lint
	$(BIN)/buf breaking --against '$(AGAINST)'
	git diff --exit-code -- proto

bench: bench-memory bench-assembler bench-verify bench-learner bench-bus  ## Measure everything; see bench/README.md.

bench-bus: setup  ## Time a step on the bus beside the same work in one process.
	$(PYTHON) -m bench.bus

bench-learner: setup  ## Time the learner's step beside a bare one in plain torch.
	$(PYTHON) -m bench.learner

bench-memory: setup  ## Count what assembler and verifier hold of a group in flight.
	$(PYTHON) -m bench.memory

bench-assembler: setup  ## Time the assembler alone: rewards a second on one core.
	$(PYTHON) -m bench.assembler

bench-verify: setup  ## Time the verifiers: what a rollout costs, and what hanging ones cost others.
	$(PYTHON) -m bench.verify

soak: setup  ## Send a million groups through dispatcher, assembler and a learner that computes nothing (GROUPS=100000 for fewer).
	$(PYTHON) -m bench.soak --groups $(or $(GROUPS),1000000)
