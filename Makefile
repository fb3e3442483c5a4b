# The two commands are `make lab` and `make test`; `make help` lists the rest.
# Each makes .venv first when it is missing or older than requirements.lock or pyproject.toml.

PYTHON ?= python3
UV     := $(shell uv --version >/dev/null 2>&1 && echo uv)
JOBS   ?= 2

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# A missing, half-made or orphaned environment (its Python was removed) is made anew.
ANEW   := $(shell [ -x $(BIN)/python ] && $(if $(UV),:,[ -x $(BIN)/pip ]) || echo environment)
FIRST  := notebooks/00_start_here.ipynb

# One thread a worker: with more, torch's threads in different workers fight over the same cores.
PYTEST := OMP_NUM_THREADS=1 PYTHONPATH=tools $(BIN)/pytest -n $(JOBS)
# A notebook has one kernel, so one worker runs all of it. tools/nbval_settings.py starts the longest notebooks first.
NBVAL  := -p nbval_settings --nbval --nbval-current-env --dist loadscope --no-loadscope-reorder notebooks

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
STAGES := lint format floors tests notebooks
.PHONY: help lab test test-all test-lowest setup weights environment notebooks notebooks-plain publish faults bench fuzz \
        gpu site graph picture lock wheel clean $(STAGES:%=stage-%)

help:       ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## */make \1: /p' Makefile

# tools/jupyter answers JupyterLab's question about news for the learner. Root, as in a container, needs --allow-root.
lab: setup weights ## open the course in JupyterLab; LAB_ARGS="--no-browser --port 8899" passes through
	JUPYTER_CONFIG_PATH="$(CURDIR)/tools/jupyter" $(BIN)/jupyter lab --LabApp.default_url=/lab/tree/$(FIRST) \
	    $$([ "$$(id -u)" != 0 ] || echo --allow-root) $(LAB_ARGS)

# A stage that fails does not keep the next from running.
test: setup weights ## lint, format, floors, tests, every notebook; says at the end which of them failed
	@failed=; for stage in $(STAGES); do \
	    echo "== $$stage"; $(MAKE) --no-print-directory stage-$$stage MARKS='$(MARKS)' || failed="$$failed $$stage"; \
	done; \
	[ -z "$$failed" ] || { echo "== failed:$$failed"; exit 1; }; echo "== all passed: $(STAGES)"

test-all: MARKS := -m "slow or not slow"
test-all: test ## the same, with the tests that take minutes

stage-lint:
	$(BIN)/ruff check
stage-format:
	$(BIN)/ruff format --check
stage-floors:
	$(BIN)/lint-imports --no-logo --no-cache
stage-tests:
	$(PYTEST) $(MARKS)
stage-notebooks:
	$(PYTEST) $(NBVAL)

test-lowest: ## the tests with the lowest versions that pyproject.toml admits, in .venv-lowest (needs uv)
	rm -rf $(VENV)-lowest
	uv venv --quiet --python 3.11 $(VENV)-lowest
	uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[course,wandb,dev]'
	$(subst $(VENV),$(VENV)-lowest,$(PYTEST))

notebooks: setup ## execute and test the notebooks; NB="01_patching --check" passes through
	$(BIN)/python tools/build.py $(NB)

notebooks-plain: setup ## test every notebook with torch's plain CPU kernels
	ATEN_CPU_CAPABILITY=default $(PYTEST) $(NBVAL)

publish: setup ## set the address for Colab, Binder and the site: REPO=https://github.com/owner/name, REPO= for none
	@$(BIN)/python tools/publish.py $(if $(filter undefined,$(origin REPO)),,'$(REPO)')

faults: setup ## plant faults in the library, one by one, and check that a notebook notices each
	$(BIN)/python tools/faults.py

bench: setup ## measure speed, data loading and quality for time beside other libraries, on a quiet machine
	@[ -e $(VENV)/bench ] || { $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) \
	    --no-build-isolation -e '.[bench]' && touch $(VENV)/bench; }
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/time_to_quality.py

gpu: setup ## compare a GPU with the CPU, time training on it, and train facade_base; MINUTES=8 bounds it
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/gpu.sh $(MINUTES)

# Where atheris has no build, as on macOS, hypothesis works alone and the report says so.
fuzz: setup ## feed ten minutes of broken files to every reader; FUZZ_ARGS="--seconds 60" passes through
	@[ -e $(VENV)/fuzz ] || { $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) \
	    --no-build-isolation -e '.[fuzz]' && touch $(VENV)/fuzz; } || echo "hypothesis works alone"
	$(BIN)/python benchmarks/fuzz.py $(FUZZ_ARGS)

# Three builds, none of which executes a notebook: the pages, one page of all to print, and each lesson's slides.
SPHINX = $(BIN)/python -m sphinx -W -q -c docs -d dist/doctrees/$@
site: setup ## build the web site in dist/site, from what is committed
	@[ -e $(VENV)/docs ] || { $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) \
	    --no-build-isolation -e '.[docs]' && touch $(VENV)/docs; }
	rm -rf dist/site dist/doctrees
	$(SPHINX) -b html . dist/site
	$(SPHINX)/print -t one_page -b singlehtml . dist/site/print
	$(SPHINX)/slides -t slides -b revealjs . dist/site/slides
	sed 's/"#document-[^"#]*#/"#/g' dist/site/print/docs/index.html > dist/site/print/index.html
	rm -rf dist/site/print/docs dist/site/jupyter_execute dist/jupyter_execute
	@echo "Open dist/site/index.html."

graph: setup ## draw docs/house.png: the library's modules, their sizes and imports
	$(BIN)/python tools/graph.py

# The code in the texts makes the pictures beside it.
picture: setup ## draw the pictures of the README and of the web site's first page
	sed -n '/^```python$$/,/^```$$/p' README.md | sed '/^```/d' > $(VENV)/example.py
	cd data && ../$(BIN)/python ../$(VENV)/example.py
	sed -n '/^```python$$/,/^```$$/p' docs/index.md | sed '/^```/d' > $(VENV)/example.py
	cd docs/_static && ../../$(BIN)/python ../../$(VENV)/example.py

LOCKED := course classical wandb dev
lock:       ## pin the environment anew (needs uv); LOCK_ARGS=--upgrade moves to newer versions
	uv pip compile pyproject.toml $(addprefix --extra ,$(LOCKED)) --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --quiet --output-file requirements.lock $(LOCK_ARGS)
	$(MAKE) setup
	$(BIN)/pytest -q tests/test_project.py

wheel: setup ## build the wheel in dist/
	$(BIN)/python -m hatchling build -t wheel

clean:      ## remove all that these commands made, except your runs/ and data/photos/
	rm -rf $(VENV) $(VENV)-lowest dist .pytest_cache .ruff_cache .hypothesis
	find maelib tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +

setup: $(READY)

# Without network one line says so, and everything but the perceptual loss works.
weights: setup ## fetch VGG19's weights, for the perceptual loss
	@[ -e $(VENV)/vgg19 ] || { $(BIN)/maelib fetch vgg19 && touch $(VENV)/vgg19; } || true

# The pinned pip comes first and installs the rest: what Python brings may be years old.
$(READY): $(ANEW) requirements.lock pyproject.toml
ifdef UV
	uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	sed -n '/^pip==/,/# via/p; /^setuptools==/,/# via/p' requirements.lock > $(VENV)/installers.lock
	$(BIN)/python -m pip install --require-hashes -r $(VENV)/installers.lock
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
	uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
else
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    echo "\`$(PYTHON)\` cannot make environments: it lacks ensurepip."; \
	    echo "On Debian or Ubuntu: apt install python3-venv. Anywhere: install uv, which brings its own."; \
	    exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
endif
