# Needs git, make and python3 with pip; everything else is installed into this folder.
PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup machine demo quick test soak scale check bench gpu-bench clean

setup: $(READY)

$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools uv

$(READY): pyproject.toml constraints.txt | $(UV)
	@echo "installing into .venv (a minute or two)"
	$(UV) venv --quiet --allow-existing .venv
	$(UV) pip install --quiet --compile-bytecode -p $(BIN)/python -c constraints.txt -e '.[run,imagenet,dev]'
	@touch $@

# A real S3 server for the tests, in an environment of its own.
.venv-s3/.ready: | $(UV)
	$(UV) venv --quiet --allow-existing .venv-s3
	$(UV) pip install --quiet -p .venv-s3/bin/python -c constraints-s3.txt swift python-memcached setuptools
	@touch $@

# What tests take of the machine: a browser, PostgreSQL, network namespaces. Without it they are skipped.
machine:
	command -v chromium-headless-shell && command -v ip && ls /usr/lib/postgresql/*/bin/initdb || \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	  --no-install-recommends chromium-headless-shell iproute2 postgresql)

# The main job on real images: a sweep over CBDM, its best model registered. `make demo` again shows
# the finished sweep; `make clean demo` runs it anew.
DEMO ?= --trials 6
demo: $(READY)
	$(BIN)/whipray sweep demo --recipe digits-demo --name demo $(DEMO) --resume

# File by file on two processes; --minutes bounds the time. Coverage is of the test processes themselves.
TEST ?=
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
test: $(READY) .venv-s3/.ready
	$(PYTEST) --cov --cov-report=term $(TEST)

# The quick tests: no Ray, no MLflow server, nothing that is killed. Some minutes.
quick: $(READY)
	$(PYTEST) -m "not slow and not faults" $(TEST)

# Half an hour of kills: a sweep on a cluster of which something is lost every minute.
soak: $(READY) .venv-s3/.ready
	$(BIN)/python tests/soak.py

# ImageNet-LT's size from lists of files to a registered model, on a stand-in: a quarter of an hour, 6 GB.
SCALE ?=
scale: $(READY) .venv-s3/.ready
	$(BIN)/python tests/scale/walk.py $(SCALE)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python tests/benchmarks/bench.py

# What a GPU does: eight minutes. docs/gpu.md says how to run it where nothing can be installed.
GPU_BENCH ?=
gpu-bench: $(READY)
	$(BIN)/python tests/benchmarks/gpu.py $(GPU_BENCH)

clean:
	rm -rf whipray-runs
