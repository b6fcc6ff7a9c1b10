# Two commands do everything on a clean checkout: `make demo` and `make test`. Each makes .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo
# The tests of a module share a worker and its fixtures; a worker may take several GB of memory.
PYTEST := $(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo notebooks docs test quick lint bench robustness clean

$(VENV)/.installed: setup.py requirements.txt siamese_mrcnn_tf/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed  ## the whole method on scenes that the program draws; run it again to resume a stopped demo
	$(VENV)/bin/siamese-mrcnn demo --out $(DEMO)

notebooks: $(VENV)/.installed  ## execute notebooks/*.py and store them with their outputs as .ipynb
	$(RUN) notebooks/build.py

docs: $(VENV)/.installed  ## the pages of docs/ and the reference as a site: site/index.html; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

test: lint  ## everything that CI runs
	$(PYTEST)

quick: $(VENV)/.installed  ## style and the fast tests, up to the first failure
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(PYTEST) --exitfirst -m "not slow"

lint: $(VENV)/.installed  ## style, the import contract, types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy

bench: $(VENV)/.installed  ## one table: stages of a detection, runtimes, start-up, training, loader; best on an idle machine
	$(RUN) benchmarks/bench.py $(BENCH)

robustness: $(VENV)/.installed  ## inputs that should break commands, kills, full disks, fuzzing, load: writes docs/reliability.md
	PYTHONPATH=tests $(RUN) -m robustness $(PARTS) $(ROBUSTNESS)

clean:
	rm -rf $(VENV) $(DEMO) site datasets/shapes *.egg-info
