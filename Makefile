# Everything runs in .venv, which the first command creates. `make help` lists the commands.
# To use another Python: make setup PYTHON=/path/to/python3.12

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
READY := $(VENV)/setup-done
CUT_OFF := $(VENV)/setup-unfinished
# pip and setuptools, which install the others.
FIRST := $(VENV)/first-packages.txt
SETUP_FILES := requirements.lock setup.py rmonet_d2/csrc/mask_boxes.cpp \
    tools/install_detectron2.py tools/detectron2_fixes.py
# A failed update keeps the previous setup; a first setup that fails starts over next time.
OR_FAIL := || { test ! -e $(READY) || rm -f $(CUT_OFF); exit 1; }
# Concurrent setups of the same folder take turns if the system has flock.
TAKE_TURNS := $(if $(shell command -v flock 2>/dev/null),flock requirements.lock)

.PHONY: help setup test demo lint lock clean distclean build-venv
.DEFAULT_GOAL := help

help:
	@echo "make demo       sets up, generates scenes, trains and evaluates a model, writes a report"
	@echo "make test       sets up, then runs make lint and the whole test suite"
	@echo "make setup      builds .venv with everything installed (5 GB; a few minutes)"
	@echo "make lint       checks style and format with ruff, and types with mypy"
	@echo "make lock       renews the hashes in requirements.lock (needs uv)"
	@echo "make clean      removes build products and caches; keeps .venv, datasets and output"
	@echo "make distclean  does the same, and removes what make setup built"

setup: $(READY)

test: lint
	$(PY) -m pytest -n 2 --dist worksteal

demo: $(READY)
	$(PY) tools/demo.py

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name $(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Hashes for the versions in requirements.lock, whose comments stay.
lock:
	grep '^#' requirements.lock > requirements.new
	grep -E '^[A-Za-z0-9._-]+==' requirements.lock | sed 's/ *\\$$//' > requirements.pins
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --allow-unsafe \
	    --no-header --no-annotate requirements.pins >> requirements.new
	mv requirements.new requirements.lock
	rm requirements.pins

distclean: clean
	rm -rf $(VENV) rmonet_d2/_mask_boxes.*

$(READY): $(SETUP_FILES)
	@$(TAKE_TURNS) $(MAKE) --no-print-directory build-venv

# CUT_OFF marks a setup in progress. One that was killed may leave half a package, so start over.
build-venv:
	@if [ -e $(CUT_OFF) ]; then \
	    echo "The last setup was interrupted: removing $(VENV)"; rm -rf $(VENV); \
	fi
	@if ! [ -x $(PY) ]; then \
	    for python in $(or $(PYTHON),python3 python3.12 python3.11 python3.10 python); do \
	        "$$python" -c 'import sys, ensurepip, venv; \
	            sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	            && found="$$python" && break; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "No Python 3.10, 3.11 or 3.12 with venv among: $(or $(PYTHON),python3 \
	python3.12 python3.11 python3.10 python)." >&2; \
	        echo "Install one, or give its path: make setup PYTHON=/path/to/python3.12" >&2; \
	        exit 1; \
	    fi; \
	    echo "Setup 1/4: $(VENV) with $$("$$found" --version) (10 s)"; \
	    rm -rf $(VENV) && mkdir $(VENV) && touch $(CUT_OFF) && "$$found" -m venv $(VENV); \
	fi
	@touch $(CUT_OFF)
	@echo "Setup 2/4: the packages in requirements.lock, 2 to 3 GB to download (1 to 5 min)"
	@awk '/^(pip|setuptools)==/ {on = 1} on {print} !/\\$$/ {on = 0}' requirements.lock > $(FIRST)
	@$(PIP) install -qq --require-hashes -r $(FIRST) $(OR_FAIL)
	@$(PIP) install -qq --require-hashes --no-build-isolation -r requirements.lock $(OR_FAIL)
	@echo "Setup 3/4: Detectron2 (15 s)"
	@$(PY) tools/install_detectron2.py $(OR_FAIL)
	@echo "Setup 4/4: this package (5 s)"
	@$(PIP) install -qq --no-deps --no-build-isolation -e . $(OR_FAIL)
	@ls rmonet_d2/_mask_boxes.* >/dev/null 2>&1 \
	    || echo "No C++ compiler: pseudo labels use torch operations, which are slower."
	@rm -f $(CUT_OFF)
	@touch $(READY)
	@echo "Setup done: $(VENV)"
