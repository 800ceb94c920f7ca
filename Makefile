# gliaflow: `make help` lists what can be made.
.DEFAULT_GOAL := help
.PHONY: help setup demo results repro test lint format bench images images-check compose-check cluster-check clean
BIN := .venv/bin

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

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

images: ## Build every container image with podman or docker (TORCH=cuda: for GPUs)
	@bash infra/images.sh build

images-check: setup ## Measure the images, and run the contract suite against each, read-only and as a stranger
	@bash infra/images.sh sizes
	@GLIAFLOW_TEST_IMAGES=1 $(BIN)/pytest -n 0 tests/contracts

compose-check: setup ## Start the platform of infra/compose.yaml and run a small cohort through it
	@bash infra/check/compose.sh

cluster-check: ## Install the chart on the cluster of KUBECONFIG, use it, and take it away (REGISTRY, TAG, STORAGE_CLASS)
	@bash infra/check/cluster.sh

clean: ## Remove what the demo made; keeps .venv
	rm -rf workspace
