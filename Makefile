# gliaflow: `make help` lists what can be made.
.DEFAULT_GOAL := help
.PHONY: help setup demo results repro test lint format bench clean
BIN := .venv/bin

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## Install gliaflow and its pinned dependencies into .venv
	@bash infra/setup.sh

demo: setup ## Simulate a cohort and run the whole main job on it
	@$(BIN)/gliaflow demo

results: setup ## Run every real experiment of GLIAFLOW_REAL_DATA: RESULTS.md, and the table in README.md
	@$(BIN)/python -m tests.benchmarks results

repro: setup ## Run the same stages through DVC; a second time nothing runs
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

test: setup ## Run every test
	@$(BIN)/pytest -n 2 --dist loadgroup

lint: setup ## Check style, types and the dependency rule
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## Put the code into the house style
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: setup ## Measure, with peers in the same run, and write the figures into docs/
	@$(BIN)/python -m tests.benchmarks

clean: ## Remove what the demo made; keeps .venv
	rm -rf workspace
