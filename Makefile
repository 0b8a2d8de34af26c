# `make` alone lists what can be made. Everything runs in .venv, which the first target that needs it creates.

VENV := .venv
BIN := $(VENV)/bin
# Everything python writes here stays out of git; `make clean` removes it.
RUBBISH := build dist .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis

.DEFAULT_GOAL := help
.PHONY: help demo test check chaos soak bench docs clean

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## index the standard library with two real worker processes, in under two minutes
	@$(BIN)/python -m examples.stdlib_index

test: check  ## every gate: the static ones, then all tests
	$(BIN)/pytest -n 4 --dist loadfile

check: $(VENV)/dev  ## the static gates only: format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

chaos: $(VENV)/dev  ## every fault in full: 10,000 tasks and more each, under the real leases; the better part of an hour
	$(BIN)/pytest -o faulthandler_timeout=0 tests/crash tests/beat -m chaos

soak: $(VENV)/dev  ## 500,000 tasks through Redis (or TASKS=...), then 200,000 on four pools: no process grows, nothing is left
	SOAK_TASKS=$(or $(TASKS),500000) $(BIN)/pytest -o faulthandler_timeout=0 -s tests/crash/test_soak.py
	SOAK_TASKS=$(or $(TASKS),200000) $(BIN)/pytest -o faulthandler_timeout=0 -s tests/crash/test_soak_pools.py

bench: $(VENV)/dev  ## measure enqueue, drain, latency and memory
	$(BIN)/python benchmarks/bench.py

docs: $(VENV)/dev  ## write the generated pages of docs/ again
	$(BIN)/python docs/write_settings.py
	$(BIN)/python tools/docs.py

clean:  ## remove the environment, caches and whatever was built
	rm -rf $(VENV) $(RUBBISH)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: nothing is installed again until pyproject.toml changes.
$(VENV)/installed: pyproject.toml tools/environment
	@tools/environment $(VENV)
	@touch $@

$(VENV)/dev: $(VENV)/installed
	@tools/environment $(VENV) dev
	@touch $@
