# Two commands do everything on a clean checkout: `make demo` and `make test`. Each makes .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo

.PHONY: demo notebooks test lint benchmark clean

$(VENV)/.installed: setup.py requirements.txt siamese_mrcnn_tf/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed  ## the whole of the method on scenes that the repository draws itself; goes on after a stop
	$(RUN) samples/shapes/demo.py --out $(DEMO)

notebooks: $(VENV)/.installed  ## execute notebooks/*.py and store them with their outputs
	$(RUN) notebooks/build.py

test: lint  ## everything that CI runs
	$(RUN) -m pytest

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

benchmark: $(VENV)/.installed  ## seconds of a detection beside the machine's matrix rate, and of a training step
	$(RUN) benchmarks/detect.py
	$(RUN) benchmarks/train.py

clean:
	rm -rf $(VENV) $(DEMO) datasets/shapes *.egg-info
