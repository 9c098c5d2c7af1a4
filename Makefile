# Each target makes the environment it needs in .venv, on a machine that has
# Python 3.11 (or any from 3.10 on) and pip.
#
# An environment counts as made when its stamp is there. The stamp's name holds
# the checksum of setup.cfg; it is removed first and written last, so neither an
# interrupted build nor an older setup.cfg passes for a finished one.

PYTHON ?= python3
WORKERS ?= auto
# What a backend runs of the core, if not what its target says.
CASES ?=
TESTS ?=

VENV := .venv
BIN := $(VENV)/bin
KEY := $(shell cksum < setup.cfg | cut -d' ' -f1)
DEMO_ENV := $(VENV)/.demo-$(KEY)
DEV_ENV := $(VENV)/.dev-$(KEY)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# An advertisement.
export NO_MKDOCS_2_WARNING := 1
# The processes of a test run share the cores; threads of their own slow them.
TEST_VARS := TF_CPP_MIN_LOG_LEVEL=3 JAX_PLATFORMS=cpu \
	OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
# Tests run each computation once or twice: on JAX, compiling takes longest.
TEST_VARS += JAX_DISABLE_MOST_OPTIMIZATIONS=1
# The processes of a run share what they compile.
TEST_VARS += JAX_COMPILATION_CACHE_DIR=$(CURDIR)/build/jax-cache \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal
# The core: tests of exactness, and what trains. torch is the quickest by far,
# since it compiles nothing, and runs them all; the others run some tests of each
# file, with some of their cases, and draw different ones.
# `make test-jax CASES=1 TESTS=1` runs them all.
# What is arithmetic on labels, or words, is the same on each backend.
WORDS := $(addprefix tests/surgeon/,closing report solving $(addprefix test_, \
	bad_input.py bad_plans.py labels.py messages.py plan.py plan_options.py))
# What trains whole networks.
TRAININGS := tests/examples tests/docs/test_pages.py tests/test_find_thresholds.py
BESIDE := keras_gates $(addprefix tests/, \
	cli docs examples interop reaching stats zoo test_)
CORE := tests/callbacks tests/graphs tests/keras_internals tests/layers \
	tests/surgeon tests/transforms tests/test_constraints.py \
	tests/test_regularizers.py
# One in so many cases of a test, and one in so many tests of a file.
part = --one-in $(or $(CASES),$(1)) --tests-in $(or $(TESTS),$(2))

# The lowest Keras that setup.cfg allows, and what it has to pass.
LOWEST := $(shell sed -n 's/^ *keras>=\([0-9.]*\)$$/\1/p' setup.cfg)
LOWEST_DIR := build/keras-$(LOWEST)
LOWEST_CORE := tests/keras_internals \
	$(addprefix tests/surgeon/rules/test_,register.py activation_functions.py) \
	$(addprefix tests/graphs/test_,classes.py rewrite.py graph.py readers.py)

# Phases that use one core most of the time run side by side; nothing else does.
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif
.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs serve wheel test-tensorflow test-jax \
	test-torch test-lowest test-slow bench coverage clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

demo: $(DEMO_ENV) ## run examples/quickstart.py
	TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=tensorflow \
		$(BIN)/python examples/quickstart.py

BESIDE_EACH_OTHER := lint docs wheel
IN_TURN := test-tensorflow test-jax test-torch test-lowest

test: $(DEV_ENV) ## all that CI runs, and how long each phase takes
	@$(MAKE) --no-print-directory -j --output-sync=recurse SIDE_BY_SIDE=1 \
		$(addprefix timed-,$(BESIDE_EACH_OTHER))
	@$(MAKE) --no-print-directory $(addprefix timed-,$(IN_TURN))

timed-%:
	@echo "== $*"; start=$$(date +%s); \
	$(MAKE) --no-print-directory SIDE_BY_SIDE= $* || exit 1; \
	echo "== $* took $$(( $$(date +%s) - start )) s"

lint: $(DEV_ENV) ## ruff check, ruff format --check, mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV_ENV) ## let ruff fix and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(DEV_ENV) ## build the site into build/site, strictly
	KERAS_BACKEND=jax $(BIN)/mkdocs build --strict

serve: $(DEV_ENV) ## serve the site on localhost, and rebuild it as it changes
	KERAS_BACKEND=jax $(BIN)/mkdocs serve

wheel: $(DEV_ENV) ## build the wheel; check it in an environment of its own
	rm -rf build/lib build/bdist.* build/wheel build/wheel-env
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel-env
	build/wheel-env/bin/python -m pip install --quiet \
		"$$(echo build/wheel/keras_gates-*.whl)[jax]"
	cd build/wheel-env && KERAS_BACKEND=jax JAX_PLATFORMS=cpu \
		bin/python -I ../../.ci/check_wheel.py ../../keras_gates
	rm -rf build/wheel-env

test-tensorflow: $(DEV_ENV) ## all outside the core, and a part of the core
	KERAS_BACKEND=tensorflow $(TEST_VARS) $(PYTEST) -m "not slow and not trains" \
		$(call part,6,3) --all-of "$(BESIDE)"

test-jax: $(DEV_ENV) ## a part of the core on JAX
	KERAS_BACKEND=jax $(TEST_VARS) $(PYTEST) \
		-m "not slow and not once and not trains" $(call part,8,3) \
		$(CORE) $(addprefix --ignore=,$(WORDS))

test-torch: $(DEV_ENV) ## the whole core on torch
	KERAS_BACKEND=torch $(TEST_VARS) $(PYTEST) -m "not slow and not once" $(CORE) \
		$(TRAININGS)

test-slow: $(DEV_ENV) ## large networks, long searches: not a part of CI
	KERAS_BACKEND=tensorflow $(TEST_VARS) $(PYTEST) -m slow

# The environment has the latest Keras; the lowest that setup.cfg allows goes
# beside it, and in front of it on the path. The backends stay as they are.
test-lowest: $(LOWEST_DIR)/.done ## a small core on the lowest Keras, all backends
	for backend in tensorflow jax torch; do \
		KERAS_BACKEND=$$backend PYTHONPATH=$(LOWEST_DIR) $(TEST_VARS) \
		$(PYTEST) -m "not slow and not once" $(LOWEST_CORE) || exit 1; done

$(LOWEST_DIR)/.done: $(DEV_ENV)
	rm -rf $(LOWEST_DIR)
	$(BIN)/python -m pip install --quiet --no-deps --target $(LOWEST_DIR) \
		keras==$(LOWEST)
	touch $@

bench: $(DEV_ENV) ## speed and memory, each against a peer in the same run
	for backend in tensorflow jax torch; do TF_CPP_MIN_LOG_LEVEL=3 \
		KERAS_BACKEND=$$backend $(BIN)/python benchmarks/speed.py; done

coverage: $(DEV_ENV) ## prune all of keras.applications; docs/coverage*.md (hours)
	for suite in beyond applications; do for backend in torch tensorflow jax; \
		do TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=$$backend $(BIN)/python \
		benchmarks/coverage.py --suite $$suite; done; done
	$(BIN)/python benchmarks/coverage_report.py

clean: ## remove what was built, but not .venv
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache \
		.ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune \
		-exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

$(DEMO_ENV):
	$(call make_env,examples)
	touch $@

$(DEV_ENV):
	$(call make_env,dev)
	touch $(DEMO_ENV) $@

define make_env
	rm -f $(VENV)/.demo-* $(VENV)/.dev-*
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV): this takes some minutes."
	$(BIN)/python -m pip install --quiet --editable '.[$(1)]'
endef
