# Two commands: `make demo` and `make test`. Both make what they need in .venv first.
PYTHON ?= python3
VENV := .venv
export TF_CPP_MIN_LOG_LEVEL ?= 2
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-slow smoke lint benchmark clean

# The loop on 400 synthetic tiles, or on 400 of yours: make demo DATA=path/to/tgs
demo: $(VENV)/.installed
	$(VENV)/bin/python scripts/smoke_test.py --demo $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.installed lint
	$(VENV)/bin/python -m pytest

# Minutes each: planted bugs that the tests must catch, whole chains.
test-slow: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -m slow

# What to run before every push: each kernel, as Kaggle runs it, at the smallest size.
smoke: $(VENV)/.installed
	$(VENV)/bin/python scripts/smoke_test.py

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check

benchmark: $(VENV)/.installed
	$(VENV)/bin/python scripts/benchmark.py

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "$(PYTHON) is Python %d.%d, \
	and TensorFlow needs 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	@echo "installing requirements.txt (a few minutes; TensorFlow alone has 600 MB)"
	$(VENV)/bin/python -m pip install --requirement requirements.txt
	@touch $@

clean:
	rm -rf build .pytest_cache .ruff_cache
