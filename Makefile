# `make` alone lists what there is. PYTHON chooses the Python that .venv is made of: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
SITE := build/docs
DATA ?= data
KOKORO ?= kokoro

.PHONY: help demo setup format lint types test-fast test docs wheel bench model clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.inference  ## transcribe three recordings with the shipped model, in a virtual environment without torch
	@$(BIN)/speechrnn transcribe examples/audio

setup: .venv/.development  ## install everything that development needs into .venv, torch among it
	@tests/install-system-packages

format: .venv/.development  ## put the code into its format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: .venv/.development  ## ruff: style and format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.development  ## mypy, strict
	$(BIN)/mypy

test-fast: .venv/.development  ## tests without training, browser and sound server: under a minute
	$(PYTEST) -m 'not slow'

test: setup lint types  ## install what is missing, then lint, types and all tests
	$(PYTEST)

docs: .venv/.development  ## build the documentation into build/docs; any warning is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env --quiet docs $(SITE)
	@echo "open $(SITE)/index.html"

wheel: .venv/.development  ## build the wheel and the source archive into dist
	$(BIN)/python -m build --outdir dist .

bench: .venv/.development  ## measure speed and memory on this machine (docs/benchmarks.md)
	$(BIN)/python -m pipelines.benchmarks.speed

model: .venv/.development  ## make commands10 again from the audio below DATA and Kokoro's files in KOKORO; hours, resumable
	$(BIN)/python -m pipelines.natural_voices $(KOKORO) configs/commands10.toml --data $(DATA) --training 760
	$(BIN)/python -m pipelines.align_words configs/commands10.toml --data $(DATA)
	$(BIN)/speechrnn train configs/commands10.toml --data $(DATA) --run-dir runs/without $(if $(wildcard runs/without/last.pt),--resume) \
	    --set data.unknown.hard_negative.list= --set train.epochs=10
	$(BIN)/python -m pipelines.mine_hard_negatives configs/commands10.toml runs/without/best.pt --data $(DATA)
	$(BIN)/python -m pipelines.build_model configs/commands10.toml --data $(DATA) --target build/model \
	    --test $(DATA)/speech_commands_test_set_v0.02 --test-speech $(DATA)/speech/test

clean:  ## remove .venv and everything that was built
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/notebooks

.venv/.inference: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	    f"speechrnn needs Python 3.11 or newer, this is {sys.version.split()[0]}; try: make demo PYTHON=python3.12")'
	@echo "making .venv and installing what inference needs (once, about half a minute)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable .
	@touch $@

.venv/.development: .venv/.inference
	@echo "installing what development needs, torch among it (once, a few minutes)"
	@$(PIP) --editable '.[dev]'
	@touch $@
