# make demo   sets up and shows the whole path on a trained checkpoint
# make test   sets up and runs every check
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup-done

.PHONY: setup demo test lint format clean

setup: $(SETUP)

$(SETUP): pyproject.toml
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(SHELL) -c 'run=$$(test "$$(id -u)" = 0 || echo sudo); $$run apt-get update -q && $$run apt-get install -q -y python3-venv'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(SETUP)
	mkdir -p demo
	$(BIN)/vmoe-export samples/mnist/vmoe_mnist --config samples/mnist/config.json --group 16 \
		--capacity 0.1 --capacity 0.2 --capacity 0.3 --capacity 0.5 --capacity 1.05 --capacity 2.0 --k 1 --k 2 \
		-o demo/mnist.vmoe --force
	$(BIN)/python samples/mnist/demo.py demo/mnist.vmoe --picture demo/accuracy.png

test: $(SETUP) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-fail-under 90

lint: $(SETUP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(SETUP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) demo dist build .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
