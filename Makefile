# Every target installs what it needs into the checkout's own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export BENTOML_DO_NOT_TRACK := True
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: setup demo serve test check format bento clean

# Stamps: rebuilt when the dependencies change. The small one has no torch.
$(VENV)/.serving: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serving]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.serving

setup: $(VENV)/.dev

# One CT through the service over HTTP: make demo [CT=path/to/ct.nii.gz or folder or zip]
demo: $(VENV)/.serving
	$(BIN)/islet demo $(if $(CT),"$(CT)") --out out

serve: $(VENV)/.serving
	$(BIN)/islet serve

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bento: $(VENV)/.serving
	$(BIN)/bentoml build

clean:
	rm -rf $(VENV) out build *.egg-info
