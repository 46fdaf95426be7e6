# Everything runs in .venv, which `make setup` makes; every other target makes it when it is not there.
#   make setup | demo | test | lint | format | bench | clean
# PYTHON: the interpreter .venv is made from, 3.11 or newer.  TEST_WORKERS: how many processes test.
PYTHON ?= python3
TEST_WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := src tests $(wildcard benchmarks)
BENCHMARKS := $(addprefix benchmarks/,render.py train.py infer.py p3p.py)
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.PHONY: setup demo test lint format bench clean

setup: $(STAMP)

# torch goes first and on its own, so that pip takes the wheel its own configuration offers for this machine.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cad2pose needs Python 3.11 or newer; try: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/cad2pose demo --out demo_out

# One thread per worker: the small tensors of the tests gain nothing from more.
# BOP_PATH and REFERENCE_PATH of the environment reach the tests; those that need them skip without.
test: $(STAMP)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS)

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP)
	@missed=0; for script in $(BENCHMARKS); do \
		echo "== $$script"; OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python $$script || missed=1; \
	done; exit $$missed

clean:
	rm -rf build dist demo_out out .pytest_cache .ruff_cache
	find src tests $(wildcard benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +
