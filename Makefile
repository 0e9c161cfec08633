# make demo and make test need Python 3.11, gcc, make and git, nothing else; root or not.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INDEX ?= .demo/index

.PHONY: demo test check test-slow bench-extract bench-train bench-index bench-serve bench-xdc check-cpu-recipe fuzz docs release-check clean install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pipeline weights fetch
	touch $@

demo: $(STAMP)
	$(BIN)/pipeline demo --output .demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# BENCH="--peer CLONE --peer-python PYTHON" for the peer too (benchmarks/extract_peer.py)
bench-extract: $(STAMP)
	$(BIN)/python benchmarks/extract.py $(BENCH)

# BENCH="--official CLONE" for the released code too (benchmarks/train.py)
bench-train: $(STAMP)
	$(BIN)/python benchmarks/train.py $(BENCH)

# BENCH="--peer-python PYTHON" for autofaiss too (benchmarks/index_autofaiss.py)
bench-index: $(STAMP)
	$(BIN)/python benchmarks/bench_index.py $(BENCH)

# INDEX=.demo/index, or any other (benchmarks/serve.py)
bench-serve: $(STAMP)
	$(BIN)/python benchmarks/serve.py $(INDEX) $(BENCH)

# BENCH="--peer-python PYTHON" for torchvision's reader too (benchmarks/bench_xdc.py)
bench-xdc: $(STAMP)
	$(BIN)/python benchmarks/bench_xdc.py $(BENCH)

fuzz: $(STAMP)
	$(BIN)/python benchmarks/fuzz.py

# The site, in build/site
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# docker/Dockerfile.cpu followed on a bare Debian root, without an engine; as root, with debootstrap
check-cpu-recipe: $(STAMP)
	$(BIN)/python docker/check_cpu_recipe.py --work build/recipe $(RECIPE)

# The wheel in an empty environment, outside of the repository: what `pip install` gives
release-check: $(STAMP)
	rm -rf build/release
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/release .
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder/venv" && \
	"$$folder/venv/bin/python" -m pip install --quiet --constraint constraints.txt build/release/*.whl && \
	cd "$$folder" && venv/bin/pipeline demo --output demo && \
	venv/bin/pipeline verify demo/dataset && venv/bin/pipeline search demo/index --text "a cat"

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist *.egg-info
