# Two commands do everything on a clean checkout: `make demo` and `make test`. Each makes .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo

.PHONY: demo test lint benchmark clean

$(VENV)/.installed: setup.py requirements.txt siamese_mrcnn_tf/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed  ## detect in pictures that the repository makes itself
	$(RUN) samples/shapes/shapes.py --demo --out $(DEMO)/pictures
	@set --; for crop in $(DEMO)/pictures/reference_*.png; do set -- "$$@" --reference "$$crop"; done; set -x; \
	$(RUN) samples/coco/coco.py predict --model untrained --config tiny --min-confidence 0 \
	    --image $(DEMO)/pictures/scene.png "$$@" --out $(DEMO)/found

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
	rm -rf $(VENV) $(DEMO) *.egg-info
