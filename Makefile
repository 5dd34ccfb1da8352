# The two that a newcomer needs: `make serve` and `make test`. Both set up what is missing.

VENV ?= .venv
ARGS ?=
PY := $(VENV)/bin/python
NODE := tests/compliance/node
CORE := $(wildcard src/fastim/_core/*.pyx src/fastim/_core/*.pxd) setup.py
STUBS := $(patsubst src/fastim/_core/%.pyi,fastim._core.%,$(wildcard src/fastim/_core/*.pyi))

# Stamps: installed to run; installed to test and check; core compiled from its present sources.
RUN := $(VENV)/stamp-run
DEV := $(VENV)/stamp-dev
BUILT := $(VENV)/stamp-core

export VENV

.PHONY: help serve test check lint format types stubs bench docs sanitize compliance clean distclean
.DELETE_ON_ERROR:

help:
	@echo 'make serve       start the server on 127.0.0.1:8765, data in ./data (ARGS="--port 9000 ...")'
	@echo 'make test        run every test (ARGS="tests/unit -k name ...")'
	@echo 'make check       ruff, cython-lint, mypy --strict, stubtest'
	@echo 'make format      put the sources into the form that check wants'
	@echo 'make bench       microbenchmarks of the core beside its reference twins'
	@echo 'make docs        generate docs/settings.md'
	@echo 'make sanitize    the suite under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make compliance  the Autobahn test suite against tests/compliance/ws_echo.py'
	@echo 'make clean       remove what was built; distclean: .venv as well; neither touches ./data'

serve: $(RUN) $(BUILT)
	@exec $(VENV)/bin/fastim serve $(ARGS)

test: $(DEV) $(BUILT)
	$(PY) -m pytest $(ARGS)

check: lint types stubs

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint src/fastim/_core

format: $(DEV)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(DEV)
	$(PY) -m mypy

stubs: $(DEV) $(BUILT)
	MYPYPATH=src $(PY) -m mypy.stubtest --concise --ignore-unused-allowlist \
		--allowlist scripts/stubtest-allowlist.txt $(STUBS)

bench: $(DEV) $(BUILT)
	$(PY) -m pytest benchmarks --benchmark-enable --benchmark-only --timeout 0 $(ARGS)

docs: $(RUN)
	$(PY) scripts/settings_reference.py

sanitize: $(DEV)
	scripts/sanitize $(ARGS)

compliance: $(DEV) $(BUILT)
	scripts/compliance $(ARGS)

clean:
	rm -rf build dist src/*.egg-info reports .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f src/fastim/_core/*.so src/fastim/_core/*.c $(RUN) $(DEV) $(BUILT)
	find src tests benchmarks examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(NODE)/node_modules

$(RUN): pyproject.toml scripts/setup
	scripts/setup
	@touch $@

# What tests need includes what running needs.
$(DEV): pyproject.toml scripts/setup $(NODE)/package-lock.json
	scripts/setup dev
	@touch $@ $(RUN)

# The order-only prerequisite gives the compiler its tools without compiling again for a new stamp.
$(BUILT): $(CORE) | $(if $(wildcard $(DEV)),$(DEV),$(RUN))
	$(PY) setup.py -q build_ext --inplace --parallel $$(getconf _NPROCESSORS_ONLN)
	@touch $@
