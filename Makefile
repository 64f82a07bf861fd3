# Two commands: `make demo` and `make test`. Both make what they need in .venv first.
PYTHON ?= python3
VENV := .venv
KAGGLE_VENV := .venv-kaggle
# A Python 3.12 that runs: a shim of pyenv may be on the PATH without one behind it.
PYTHON312 ?= $(shell for python in python3.12 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12*/bin/python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo "$$python" && break; done)
# Each worker gets half of the tests, in order, so that those which share a training mostly meet; who is done takes from
# what the other has not begun.
AT_ONCE := -n 2 --dist worksteal
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-slow test-kaggle smoke lint benchmark dist clean

# The loop on 400 synthetic tiles, or on 400 of yours: make demo DATA=path/to/tgs, make demo COMPETITION=severstal
demo: $(VENV)/.installed
	$(VENV)/bin/python scripts/smoke_test.py --demo $(if $(DATA),--data "$(DATA)") \
		$(if $(COMPETITION),--competition "$(COMPETITION)")

# Lint, then every test but the slow ones.
test: $(VENV)/.installed lint
	$(VENV)/bin/python -m pytest $(AT_ONCE)

# Minutes each: planted bugs that the tests must catch, whole chains.
test-slow: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(AT_ONCE) -m slow

# The tests under the versions of Kaggle's image, where there is a Python 3.12.
test-kaggle:
	@if [ -z "$(PYTHON312)" ]; then \
	echo "skipped: Kaggle has Python 3.12, and there is none here; say where: make test-kaggle PYTHON312=path/to/python"; \
	else $(MAKE) --no-print-directory $(KAGGLE_VENV)/.installed && $(KAGGLE_VENV)/bin/python -m pytest $(AT_ONCE); fi

# What to run before every push: each kernel, as Kaggle runs it, at the smallest size.
smoke: $(VENV)/.installed
	$(VENV)/bin/python scripts/smoke_test.py

# What reads the code without running it: ruff's rules and its format, mypy's types.
lint: $(VENV)/.installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

benchmark: $(VENV)/.installed
	$(VENV)/bin/python scripts/benchmark.py

# The flattener as one file, to be copied into other repositories: made by the flattener from itself.
DIST := dist
dist:
	$(PYTHON) build_kernel.py --entry build_kernel.py --package flattener --out $(DIST)/build_kernel.py

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "$(PYTHON) is Python %d.%d, \
	and TensorFlow needs 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	@echo "installing what pyproject.toml names (a few minutes; TensorFlow alone has 600 MB)"
	$(VENV)/bin/python -m pip install --requirement requirements.txt
	@touch $@

$(KAGGLE_VENV)/.installed: requirements.txt constraints-kaggle.txt pyproject.toml
	$(PYTHON312) -m venv $(KAGGLE_VENV)
	$(KAGGLE_VENV)/bin/python -m pip install --quiet --upgrade pip
	@echo "installing what pyproject.toml names, at Kaggle's versions (a few minutes)"
	$(KAGGLE_VENV)/bin/python -m pip install --requirement requirements.txt --constraint constraints-kaggle.txt
	@touch $@

# Removes what can be built again; runs and data stay.
clean:
	rm -rf build .pytest_cache .ruff_cache
