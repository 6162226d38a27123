# make demo   hear the shipped model work: a virtual environment without torch, and the words in examples/
# make test   everything that development needs, then lint, types and all tests

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test clean

demo: .venv/.inference
	@$(BIN)/speechrnn transcribe examples/audio

test: .venv/.development
	@tests/install-system-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

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

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
