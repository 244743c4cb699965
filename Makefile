# Every target installs what it needs into the checkout's own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export BENTOML_DO_NOT_TRACK := True
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: setup demo serve ui test test-units test-processes chaos coverage mutants programs check format bento clean

UI := serving/ui/built/index.html

# Stamps: rebuilt when the dependencies change. The small one has no torch.
$(VENV)/.serving: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serving,openvino]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.serving

setup: $(VENV)/.dev

# The page at /, where npm is at hand; without it the service says there how to build it.
$(UI): $(addprefix serving/ui/,package.json package-lock.json tsconfig.json build.js index.html) $(wildcard serving/ui/src/*)
	if command -v npm > /dev/null; then \
	    npm ci --prefix serving/ui --ignore-scripts --no-audit --no-fund && npm run build --prefix serving/ui; \
	fi

ui: $(UI)

# What the tests run against besides Python: an archive, a database, a browser, DICOM tools. Tests
# skip with a reason where they are missing.
programs:
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    dpkg -s $(PROGRAMS) > /dev/null 2>&1 || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(PROGRAMS); }; \
	fi

PROGRAMS := orthanc orthanc-dicomweb dcmtk dicom3tools postgresql chromium chromium-driver

# One CT through the service over HTTP: make demo [CT=path/to/ct.nii.gz or folder or zip]
demo: $(VENV)/.serving
	$(BIN)/islet demo $(if $(CT),"$(CT)") --out out

serve: $(VENV)/.serving $(UI)
	$(BIN)/islet serve

# Tests write and throw away thousands of small files, each brought to disk as the service's are:
# where memory takes files, they go there.
FILES := $(if $(wildcard /dev/shm/.),PYTEST_DEBUG_TEMPROOT=/dev/shm)

# Two lanes beside each other, unit tests in two processes. Tests of real processes have a lane of
# their own: two of them at a time would share the cores among a dozen processes and wait for each
# other.
test: $(VENV)/.dev $(UI) programs
	$(MAKE) --jobs 2 --output-sync=target test-units test-processes

test-units: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(FILES) $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=25 -m "not e2e"

test-processes: $(VENV)/.dev $(UI)
	OMP_NUM_THREADS=1 $(FILES) $(BIN)/python -m pytest -q --durations=10 -m e2e

# Faults, floods and forged files at full length: one table, about two hours on two cores.
chaos: $(VENV)/.dev $(UI) programs
	$(BIN)/pip install --quiet atheris==2.3.0
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability --long

# Whether the tests notice small wrong changes in geometry and stores: an hour or two.
mutants: $(VENV)/.dev
	$(BIN)/pip install --quiet --constraint constraints.txt cosmic-ray==8.7.0
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutation

MEASURED := COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/python

# Lines and branches that any test reaches, about as long again as the tests take.
coverage: $(VENV)/.dev $(UI) programs
	$(BIN)/pip install --quiet coverage==7.17.3
	rm -rf build/coverage && mkdir -p build/coverage
	-OMP_NUM_THREADS=1 $(FILES) $(MEASURED) -m coverage run -m pytest -q -n 2 --dist loadfile -m "not e2e"
	-OMP_NUM_THREADS=1 $(FILES) $(MEASURED) -m coverage run -m pytest -q -m e2e
	$(MEASURED) -m coverage combine --quiet
	$(MEASURED) -m coverage report --skip-covered --sort=cover

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bento: $(VENV)/.serving $(UI)
	$(BIN)/bentoml build

clean:
	rm -rf $(VENV) out build *.egg-info serving/ui/built serving/ui/node_modules
