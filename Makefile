# make demo [SECONDS=20]   run an agent and a PocketFlow application, and show their output
# make test                run the tests, against real servers
# make test-long           run the long tests; a short form of each is in make test
# make check               run ruff, mypy and import-linter, check the web page and the docs
# make bench [QUICK=1]     measure kaywatch and its peers; write bench.json
# make release             check everything, and build the release in dist/; upload nothing
# make dist                build and check the files of a release
# make page                build the web page of this tree
# make docs                build the documentation site, and check its links
# make images              draw the pictures of the documentation; needs chromium
# make long-run MINUTES=10 run every node kind under `kaywatch run`, and compare the counts
# make fuzz [SECONDS=60]   fuzz each target with coverage guidance, then requests and the API
# make chaos               kill the agent 100 times under load, and compare the totals
# make chaos-mqtt          the same through a broker that is stopped, killed or cut off

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SECONDS ?=
QUICK ?=
TESTS ?= tests
# npm in the folder of the page, of this machine or of a Python package.
NPM = $(BIN)/python scripts/build_page.py npm
MINUTES ?= 10
VERSION = $(shell $(BIN)/python -c 'import kaywatch; print(kaywatch.__version__)')

.PHONY: demo test test-long test-page test-python check format page docs dist release bench images long-run fuzz chaos chaos-mqtt servers clean

demo: .venv/.demo
	@$(BIN)/kaywatch demo $(if $(SECONDS),--seconds $(SECONDS))

test: .venv/.dev servers
	@# The page's own tests take seconds, and pytest needs as long to collect its tests.
	@$(MAKE) --no-print-directory --jobs=2 test-page test-python

test-page:
	@$(NPM) test

test-python:
	@# Compiles the tests once, instead of in each worker.
	@$(BIN)/pytest --collect-only -q $(TESTS) > /dev/null
	@# More workers than cores, because tests wait about half of the time.
	$(BIN)/pytest -n $$(($$(nproc) + 4)) $(TESTS)

test-long: .venv/.dev servers
	$(BIN)/pytest -n $$(($$(nproc) + 1)) -m long $(TESTS)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/build_site.py
	@$(NPM) run check

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@$(NPM) run format

bench: .venv/.dev
	@tests/bench/install_peers.sh
	$(BIN)/python -m tests.bench --json bench.json $(if $(QUICK),--quick)

images: .venv/.dev page
	$(BIN)/python -m tests.docs.slack_images
	$(BIN)/python -m tests.docs.page_images

long-run: .venv/.dev
	$(BIN)/python -m tests.e2e.long_run --minutes $(MINUTES)

page: .venv/.dev
	$(BIN)/python scripts/build_page.py

release: .venv/.dev
	@changes=$$(git status --porcelain) || \
		{ echo "release: this is not a clone of the repository" >&2; exit 1; }; \
		test -z "$$changes" || { echo "$$changes"; \
		echo "release: commit or remove these changes first" >&2; exit 1; }
	@grep -q "^## $(VERSION) - " CHANGELOG.md || \
		{ echo "release: add a section for $(VERSION) with its date to CHANGELOG.md" >&2; exit 1; }
	@echo "== release 1 of 3: check the code, the web page and the docs"
	@$(MAKE) --no-print-directory check
	@echo "== release 2 of 3: run all tests, which takes longest"
	@$(MAKE) --no-print-directory test
	@echo "== release 3 of 3: build the files"
	@$(MAKE) --no-print-directory dist
	@echo "The files of kaywatch $(VERSION) are in dist/. Nothing was uploaded."

dist: .venv/.dev
	@echo "-- tools"
	@$(BIN)/pip install --quiet --group release
	@rm -rf dist && mkdir -p build
	@echo "-- man pages"
	@$(BIN)/python scripts/build_man.py
	@echo "-- sdist, and a wheel built from it"
	@$(BIN)/python -m build --outdir dist > build/build.log 2>&1 || \
		{ cat build/build.log >&2; exit 1; }; tail -n 1 build/build.log
	@echo "-- metadata, contents and description"
	@$(BIN)/twine check --strict dist/*
	@$(BIN)/check-wheel-contents dist/*.whl
	@# Without the address of the project and of its authors, the best rating is 8.
	@$(BIN)/pyroma --min=8 dist/*.tar.gz
	@echo "-- SBOM of the wheel with what an agent needs, in an empty environment"
	@rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	@$(BIN)/pip --python build/sbom/bin/python install --quiet "$$(echo dist/*.whl)[agent]"
	@sed 's/^dynamic = .*/version = "$(VERSION)"/' pyproject.toml > build/pyproject.toml
	@$(BIN)/cyclonedx-py environment --output-reproducible --pyproject build/pyproject.toml \
		--output-file dist/sbom.cdx.json build/sbom/bin/python
	@echo "-- checksums"
	@cd dist && sha256sum -- * > SHA256SUMS && cat SHA256SUMS

docs: .venv/.dev
	$(BIN)/python scripts/build_site.py

fuzz: .venv/.dev
	@$(BIN)/pip install --quiet --group fuzz
	@for target in frames messages queries configurations matchers silences rules; do \
		echo "== $$target"; \
		$(BIN)/python -m tests.fuzz $$target $(or $(SECONDS),60) || exit 1; done
	$(BIN)/python -m tests.fuzz.timing
	$(BIN)/python -m tests.fuzz.requests
	KAYWATCH_TEST_EXAMPLES=100 $(BIN)/pytest -k schemathesis \
		tests/agent/web/api/test_openapi.py
	$(BIN)/python -m tests.bench.fuzz_frames

chaos: .venv/.dev
	$(BIN)/python -m tests.e2e.chaos --kills 100 --processes 8 --freeze 30

chaos-mqtt: .venv/.dev servers
	$(BIN)/python -m tests.e2e.chaos_mqtt --strikes 100 --processes 4

servers:
	@tests/install_servers.sh

clean:
	rm -rf .venv .bench .fuzz .cache bench.json build dist man .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "kaywatch needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@# Dependency groups (PEP 735) need pip 25.1.
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'

.venv/.demo: .venv/bin/python pyproject.toml
	@echo "Setting up .venv for the demo, up to a minute the first time ..."
	@$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	@echo "Setting up .venv for the tests, about a minute the first time ..."
	@$(BIN)/pip install --quiet --editable '.[demo]' --group test --group check --group docs
	@touch $@
