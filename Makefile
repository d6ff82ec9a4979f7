# What a fresh clone needs: `make demo` shows the whole loop, `make test` proves it. Both install first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: install demo test lint types imports bench-edge bench-flow bench-train chaos clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[pva,cpu,hpc,parsl,globus,test]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/phaseline demo --output demo-output

test: lint types imports
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

# Some twelve minutes, and worth something only while the machine does nothing else.
bench-edge: $(INSTALLED)
	$(BIN)/python -m benchmarks.edge

# Two minutes.
bench-flow: $(INSTALLED)
	$(BIN)/python -m benchmarks.flow

# Some minutes.
bench-train: $(INSTALLED)
	$(BIN)/python -m benchmarks.train

# Under ten minutes: 50 scans over three bridges while processes are killed; the last line is the verdict.
chaos: $(INSTALLED)
	$(BIN)/python tests/chaos

clean:
	rm -rf $(VENV) demo-output build *.egg-info
