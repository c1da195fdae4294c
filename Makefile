# One .venv serves every target; the first one that is called makes it.
#   make demo     train briefly on the bundled chorales, predict while training, leave a WAV and a picture in demo/
#   make test     all tests          make check   format, lint, types, fast tests       make fix   mend format and lint
#   make bench    the tables of benchmarks/RESULTS.md           make docs     docs/api/, from the docstrings

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: env demo test check fix bench docs clean-cache

env: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Continuo needs Python 3.11 or newer, this is {v[0]}.{v[1]}: call make PYTHON=python3.12, say")'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv
	@echo "installing into $(VENV) ..."
	@$(RUN) -m uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements-dev.txt
	@touch $@

demo: env
	@$(RUN) examples/demo.py

test: env
	$(RUN) -m pytest

check: env
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy .
	$(RUN) -m pytest -m "not slow"

fix: env
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: env
	$(RUN) benchmarks/speed.py --write
	$(RUN) benchmarks/growth.py --write

docs: env
	$(RUN) -m pdoc --docformat google --no-show-source --output-directory docs/api $(patsubst %.py,%,$(wildcard *.py)) continuo

clean-cache: env
	$(RUN) corpus.py --clear-cache
