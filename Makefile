# `make` lists what there is. The first target that needs it makes .venv; later ones find it made.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PACKAGES := pipeline slicer publishers rollback serving examples
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo fleet test check bench fuzz simulate chaos format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## the environment in .venv, and nothing else

demo: $(READY) ## the whole story on real data, on this machine
	@$(BIN)/penstock demo

check: $(READY) ## format, lint, types, fast tests: in two minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES:%=-p penstock.%)
	MYPYPATH=.venv/typing:dags $(BIN)/mypy dags/*.py
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not s3 and not kafka and not airflow"

test: $(READY) ## every test; real servers are started where they can be (CI=true: must be)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

fleet: $(READY) ## a fleet in minutes: Airflow, Kafka, S3, trainer, replicas; poison, and a rollback by DAG; SHORT=1
	@$(BIN)/python -m penstock.examples.fleet $(if $(SHORT),--short)

bench: $(READY) ## measures, and writes down what was measured
	$(BIN)/python -m bench

fuzz: $(READY) ## feeds damaged bytes to every parser, SECONDS=300 each; TARGETS="npy onnx"
	$(BIN)/python tests/fuzz/run.py $(TARGETS) --seconds $(or $(SECONDS),300) --jobs 2

simulate: $(READY) ## runs all of it under a deterministic scheduler with faults, SEEDS=1000 of them; FROM=0 STEPS=40
	PYTHONPATH=tests $(BIN)/python -m simulation --seeds $(or $(SEEDS),1000) --from $(or $(FROM),0) --steps $(or $(STEPS),40)

chaos: $(READY) ## kills a real broker 5 times, trainer and replicas 20 times, in each way of overflow; SEED=1
	CI=true CHAOS_KILLS=20 CHAOS_BROKER_KILLS=5 CHAOS_SEED=$(or $(SEED),1) $(BIN)/python -m pytest tests/faults/test_chaos.py

format: $(READY) ## formats the code and mends what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY) ## newest versions of everything into requirements.lock
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev,demo,bench,airflow]'
	{ echo '# Every package of the development environment, demo and benches included. Made by `make lock`.'; \
	  $(BIN)/python -m pip freeze --exclude-editable; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	touch $(READY)

clean: ## takes away .venv, servers and caches
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "Penstock needs Python 3.11 or newer, and there is no '$(PYTHON)'; try make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Penstock needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "$(PYTHON) comes without venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "making .venv from requirements.lock (once, some minutes) ..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --no-input -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-input --no-deps -e .
	@mkdir -p .venv/typing
	@ln -sfn ../.. .venv/typing/penstock
	@touch $@
