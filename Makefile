PYTHON ?= python3
PORT ?= 8000
NAME ?= main
BIN := .venv/bin

.PHONY: help demo test check docs bench chaos clean

help: ## what you can ask for
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: .venv/runs ## play the main job on a sample city; PORT=… for another port, EXIT=1 to end after the story
	$(BIN)/yingbao demo --port $(PORT) $(if $(EXIT),--exit)

test: .venv/tests ## set up and run every test, today and under a date in 2027; COV=--cov to see what they run through
	sh deploy/test-system.sh
	$(BIN)/pytest $(COV) -n 2 --dist loadfile
	faketime -f '@2027-03-01 10:00:00' $(BIN)/pytest -n 2 --dist loadfile tests/unit tests/contract tests/integration

check: .venv/tests ## formatting, lints, types, import rules, fresh documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yingbao docs --check

docs: .venv/tests ## write the generated documents
	$(BIN)/yingbao docs

bench: .venv/tests ## speed beside peers on the same data; NAME=clocks, events, latency or register
	@test -f tests/bench/$(NAME).py || { echo "NAME=clocks, events, latency or register" >&2; exit 2; }
	@sh deploy/test-system.sh >&2
	@$(BIN)/python -m tests.bench.$(NAME)

chaos: .venv/tests ## main: harm done through the story; herd: 50,000 clocks due on one day; NAME=…
	@sh deploy/test-system.sh >&2
	@$(BIN)/python -m tests.chaos.$(NAME)

clean: ## remove everything that was installed or produced
	rm -rf .venv .tools var .coverage .hypothesis

.venv/runs: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/tests: .venv/runs requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
