# LMT²: `make help` lists what there is. Everything runs in .venv inside the checkout.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check unit format clean
bin := .venv/bin
stamp := .venv/.setup
packages := lmt2 producer consumer learner memory gate serving benchmarks

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(stamp) ## make .venv and install everything into it (PYTHON=… picks the interpreter)

$(stamp): pyproject.toml constraints.txt scripts/setup.sh scripts/lib.sh
	@scripts/setup.sh
	@touch $@

demo: setup ## the whole loop on sample documents, from nothing to answers
	@$(bin)/lmt2 fetch-models
	@$(bin)/lmt2 demo

test: ## every check and every test that this machine can run, real Kafka and vLLM included (CI=true: all of them)
	@scripts/test.sh

check: setup ## style, types and the direction of imports
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/lint-imports --no-cache
	$(bin)/mypy

unit: setup ## the quick tests only, doctests included
	$(bin)/python -m pytest -m "not (kafka or containers or vllm or model or slow)" $(packages) tests/unit

format: setup ## put the code into shape
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean: ## remove .venv and what tools left behind; the cache with models and jars stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
