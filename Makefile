# The two commands are `make lab` and `make test`; `make help` lists the rest.
# Each makes .venv first when it is missing or older than requirements.lock or pyproject.toml.

PYTHON ?= python3
UV     := $(shell uv --version >/dev/null 2>&1 && echo uv)
JOBS   ?= 2

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
FIRST  := notebooks/00_start_here.ipynb
# A missing, half-made or orphaned environment (its Python was removed) is made anew.
ANEW   := $(shell [ -x $(BIN)/python ] && [ -x $(BIN)/pip ] || echo environment)

# One thread a worker: with more, torch's threads in different workers fight over the same cores.
PYTEST := OMP_NUM_THREADS=1 PYTHONPATH=tools $(BIN)/pytest -n $(JOBS)
# A notebook has one kernel, so one worker runs all of it; tools/nbval_settings.py puts those that take longest first.
NBVAL  := -p nbval_settings --nbval --nbval-current-env --dist loadscope --no-loadscope-reorder notebooks

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help lab test test-all test-lowest setup weights environment notebooks notebooks-plain badges faults bench fuzz \
        picture lock wheel clean

help:       ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## */make \1: /p' Makefile

# Jupyter refuses to run as root unless it is told that root is meant, as in a container.
lab: setup weights ## open the course in JupyterLab; LAB_ARGS="--no-browser --port 8899" passes through
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/$(FIRST) \
	    $$([ "$$(id -u)" != 0 ] || echo --allow-root) $(LAB_ARGS)

test: setup weights ## lint, tests, every notebook
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(PYTEST) $(MARKS)
	$(PYTEST) $(NBVAL)

test-all: MARKS := -m "slow or not slow"
test-all: test ## the same, with the tests that take minutes

test-lowest: ## the tests with the lowest versions that pyproject.toml admits, in .venv-lowest (needs uv)
	rm -rf $(VENV)-lowest
	uv venv --quiet --python 3.11 $(VENV)-lowest
	uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[course,wandb,dev]'
	uv pip install --quiet --python $(VENV)-lowest/bin/python pip  # a new one, as on Colab
	$(subst $(VENV),$(VENV)-lowest,$(PYTEST))

notebooks: setup ## execute and test the notebooks; NB="01_patching --check" passes through
	$(BIN)/python tools/build.py $(NB)

notebooks-plain: setup ## every notebook's text again, with torch's plain CPU kernels
	ATEN_CPU_CAPABILITY=default $(PYTEST) $(NBVAL)

badges: setup ## say where the repository is, for Colab: REPO=https://github.com/owner/name, REPO= for nowhere
	@$(BIN)/python tools/badges.py $(if $(filter undefined,$(origin REPO)),,'$(REPO)')

faults: setup ## plant faults in the library, one by one, and see the notebooks notice each
	$(BIN)/python tools/faults.py

bench: setup ## measure speed, data loading and quality for time beside other libraries; wants a quiet machine
	@[ -e $(VENV)/bench ] || { $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) \
	    --no-build-isolation -e '.[bench]' && touch $(VENV)/bench; }
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/time_to_quality.py

# Once. Where atheris has no build, as on macOS, hypothesis works alone and the report says so.
fuzz: setup ## ten minutes of broken files for every reader; FUZZ_ARGS="--seconds 60" passes through
	@[ -e $(VENV)/fuzz ] || { $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) \
	    --no-build-isolation -e '.[fuzz]' && touch $(VENV)/fuzz; } || echo "hypothesis works alone"
	$(BIN)/python benchmarks/fuzz.py $(FUZZ_ARGS)

picture: setup ## run the README's example, which draws data/repair.png
	sed -n '/^```python$$/,/^```$$/p' README.md | sed '/^```/d' > $(VENV)/example.py
	cd data && ../$(BIN)/python ../$(VENV)/example.py

LOCKED := course classical wandb dev
lock:       ## pin the environment anew (needs uv); LOCK_ARGS=--upgrade moves to newer versions
	uv pip compile pyproject.toml $(addprefix --extra ,$(LOCKED)) --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --quiet --output-file requirements.lock $(LOCK_ARGS)
	$(MAKE) setup
	$(BIN)/pytest -q tests/test_project.py

wheel: setup ## build the wheel into dist/
	$(BIN)/python -m hatchling build -t wheel

clean:      ## remove what these commands made; your runs/ and data/photos/ stay
	rm -rf $(VENV) $(VENV)-lowest dist .pytest_cache .ruff_cache .hypothesis
	find maelib tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +

setup: $(READY)

# Once. Where they are out of reach one line says so, and all but the loss that needs them works.
weights: setup ## fetch VGG19's weights, for the perceptual loss
	@[ -e $(VENV)/vgg19 ] || { $(BIN)/maelib fetch vgg19 && touch $(VENV)/vgg19; } || true

$(READY): $(ANEW) requirements.lock pyproject.toml
ifdef UV
	uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	$(BIN)/python -m pip install --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
endif
	@touch $@

environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "maelib needs Python 3.11 or newer, and \`$(PYTHON)\` is: $$($(PYTHON) -V 2>&1)."; \
	    echo "Install a newer one and name it: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; } >&2
	rm -rf $(VENV)
ifdef UV
	uv venv --quiet --seed --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
else
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    echo "\`$(PYTHON)\` cannot make environments: it lacks ensurepip."; \
	    echo "On Debian or Ubuntu: apt install python3-venv. Anywhere: install uv, which brings its own."; \
	    exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
endif
