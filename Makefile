# One .venv serves every target; the first one that is called makes it.
#   make demo     train briefly on the bundled chorales, predict while training, leave a WAV and a picture in demo/
#   make studio   the page in the browser: continue a score, train, read reports
#   make test     all tests          make check   format, lint, types, fast tests       make fix   mend format and lint
#   make bench    the tables of benchmarks/RESULTS.md           make docs     docs/api/, from the docstrings
#   make audit    known vulnerabilities of what is installed (asks PyPI)
#   make test-lowest   fast tests with the lowest versions that requirements.txt allows, in .venv-lowest
#   make coverage      branch coverage of the fast tests, at least 90 %      make mutants   mutation tests of five modules
#   make reliability   faults and hostile input, thoroughly

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
LOWEST := .venv-lowest/bin/python
LOWEST_TESTS ?= tests
export PYTHONDONTWRITEBYTECODE := # empty: without bytecode every process that a test starts compiles everything again
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

.PHONY: env demo studio test check types fast-tests fix bench docs reliability audit test-lowest coverage mutants clean-cache

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

studio: env
	@$(RUN) studio.py --open

test: env
	$(RUN) -m pytest $(PARALLEL)

check: env
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	@$(MAKE) --no-print-directory -j2 types fast-tests

types:
	$(RUN) -m mypy .

fast-tests:
	$(RUN) -m pytest $(PARALLEL) -m "not slow"

fix: env
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: env
	$(RUN) benchmarks/speed.py --write
	$(RUN) benchmarks/growth.py --write

audit: env
	$(RUN) -m uv pip freeze --python $(RUN) | $(RUN) -m uv tool run 'pip-audit>=2.9,<3' --strict --disable-pip --no-deps -r /dev/stdin

test-lowest: .venv-lowest/.installed
	$(LOWEST) -m pytest $(PARALLEL) -m "not slow" $(LOWEST_TESTS)

.venv-lowest/.installed: requirements.txt requirements-dev.txt | env
	$(RUN) -m uv venv --quiet --clear --python $(RUN) .venv-lowest
	$(RUN) -m uv pip install --quiet --resolution lowest-direct --python $(LOWEST) -r requirements-dev.txt
	@touch $@

coverage: env
	$(RUN) -m pytest $(PARALLEL) -m "not slow" --cov

mutants: env
	OMP_NUM_THREADS=1 $(VENV)/bin/mutmut run --max-children 1
	$(VENV)/bin/mutmut results

reliability: env
	CONTINUO_THOROUGH=1 $(RUN) -m pytest -rP tests/robustness/test_faults.py tests/robustness/test_fuzz.py

docs: env
	$(RUN) -m pdoc --docformat google --no-show-source --output-directory docs/api $(patsubst %.py,%,$(wildcard *.py)) continuo evaluation web

clean-cache: env
	$(RUN) corpus.py --clear-cache
