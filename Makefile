# Everything installs into ./.venv and ./.local (downloads, databases, results); nothing outside this folder.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
LOCALS := packages/contracts packages/service-kit services/consumer services/generator services/sizing-api deploy/local
UNPUBLISHED := $(foreach p,wearon-contracts wearon-service-kit wearon-consumer wearon-generator wearon-sizing wearon-local,--no-emit-package $(p))

.PHONY: help setup lock lint test test-all coverage-core test-migrations model demo up generated check-generated bench bench-quick chaos calibrate bench-sizing check-photos pack-npm

help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort -u | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

.venv/.installed: requirements-dev.lock $(addsuffix /pyproject.toml,$(LOCALS))
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@python3 -m venv .venv || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(addprefix -e ,$(LOCALS))
	@touch $@

setup: .venv/.installed ## Install every package and service, editable, into .venv (hash-checked)

COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --overrides lock-overrides.txt $(UNPUBLISHED)

lock: setup ## Compile the hash-checked locks again: all tools and services, then one per deployable
	$(COMPILE) requirements-dev.in --all-extras $(addsuffix /pyproject.toml,$(LOCALS)) -o requirements-dev.lock
	for s in consumer generator sizing-api; do \
	  $(COMPILE) -c requirements-dev.lock services/$$s/pyproject.toml -o services/$$s/requirements.lock || exit 1; done
	$(COMPILE) -c requirements-dev.lock requirements-tracing.in -o requirements-tracing.lock
	$(MAKE) --no-print-directory lock-local notices


generated: setup ## Write again what is generated: schemas, TypeScript, .env.example, the sentences in SQL, the OpenAPI document
	$(PY) deploy/tools/version.py
	.venv/bin/python -m wearon_contracts.generate
	$(PY) deploy/tools/env_example.py
	$(PY) deploy/tools/sentences_sql.py
	.venv/bin/wearon-sizing openapi > services/sizing-api/openapi.json

check-generated: setup
	$(PY) deploy/tools/version.py --check
	.venv/bin/python -m wearon_contracts.generate --check
	$(PY) deploy/tools/env_example.py --check
	$(PY) deploy/tools/sentences_sql.py --check

lint: setup check-generated lint-deploy ## Format check, lint, types, import borders, dead code, generated files up to date
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy packages services/consumer services/generator services/sizing-api/src services/sizing-api/tools tests/contract
	.venv/bin/lint-imports
	.venv/bin/vulture

# Most tests wait, so more run at once than there are cores; a file's tests stay together.
SIDE_BY_SIDE ?= 4
PYTEST = .venv/bin/python -m pytest -q
TOGETHER = $(PYTEST) -n $(SIDE_BY_SIDE) --dist loadfile

test: setup model ## Run the quick tests on real parts: Redis, PostgreSQL, PostgREST and Node, all started by the tests
	$(TOGETHER) -m "not slow and not alone and not full"
	$(PYTEST) -m "alone and not slow and not full"

test-all: test-together test-alone ## Run all tests, with real timeouts, kills and outages, as CI does

test-together: setup model next-app
	$(TOGETHER) -m "not alone and not full"

test-alone: setup model
	$(PYTEST) -m "alone and not full"

coverage-core: setup ## Branch coverage of the generator's two job modules by their unit tests, at least 95 %
	$(PYTEST) services/generator/tests/test_attempt.py services/generator/tests/test_waiting.py services/generator/tests/test_quarantine.py \
	  --cov wearon_generator.attempt --cov wearon_generator.waiting --cov-branch --cov-report term-missing --cov-fail-under 95

test-migrations: setup ## Migrate 1,000,000 sessions while the application writes, and sweep beside as many waiting tasks
	$(PYTEST) -m full tests/integration/test_ledger_migrations.py tests/integration/test_ledger_sweep_cost.py

model: setup ## Fetch the pose model (9 MB) into .local/models, checked by its sha256
	.venv/bin/python services/sizing-api/fetch_model.py

pack-npm: ## Pack the npm package into .local/npm, as an app installs it
	@mkdir -p .local/npm
	cd packages/contracts/typescript && npm ci --silent --no-audit --no-fund && npm pack --silent --pack-destination $(CURDIR)/.local/npm

.PHONY: next-app
next-app: .local/next-app/node_modules/.installed ## Install Next.js for the application that tests/contract makes of the npm package

.local/next-app/node_modules/.installed: tests/contract/next-app/package-lock.json
	@mkdir -p .local/next-app
	cp tests/contract/next-app/*.json tests/contract/next-app/.npmrc .local/next-app/
	cd .local/next-app && npm ci --silent --no-audit --no-fund
	@touch $@

demo: setup model ## The main job: four try-ons through queue, worker and database, on stand-ins for OpenAI and Storage
	.venv/bin/python -m wearon_local demo $(if $(KEEP),--keep)

up: setup model ## The local stack and all services, until Ctrl-C
	.venv/bin/python -m wearon_local up

bench: setup model ## Measure beside the alternatives; figures, JSON and plots; each part says how long it took
	.venv/bin/python -m tests.bench

bench-quick: setup model ## The same, rougher and shorter
	.venv/bin/python -m tests.bench --quick

chaos: setup ## Break everything while jobs run and check the laws; SEED=, RUNS=, JOBS=, PACE=
	.venv/bin/python -m tests.chaos

.PHONY: chaos-sentinel
chaos-sentinel: setup ## The same with Redis behind three Sentinels, its primary killed three times; SEED=, RUNS=, JOBS=
	.venv/bin/python -m tests.chaos --sentinels

# $(call needs,NAME): ends with a sentence where `make … NAME=folder` was left out.
needs = @test -n "$($(1))" || { echo "say where: make $@ $(1)=folder; make help tells which"; exit 2; }

calibrate: setup model ## Fit the sizing method again: ANSUR=folder NHANES=folder RENDERS=renders2/train EARLIER=renders/train
	$(call needs,ANSUR)
	$(call needs,NHANES)
	$(call needs,RENDERS)
	$(call needs,EARLIER)
	.venv/bin/python services/sizing-api/tools/fit_population.py --ansur "$(ANSUR)" --nhanes "$(NHANES)"
	.venv/bin/python services/sizing-api/tools/calibrate.py --ansur "$(ANSUR)" --renders "$(RENDERS)" --earlier "$(EARLIER)"

bench-sizing: setup model ## Errors beside no photo and the earlier method, intervals, sizes, latency and load: RENDERS=folder/dev
	$(call needs,RENDERS)
	@missed=0; .venv/bin/python services/sizing-api/tools/bench.py --renders "$(RENDERS)" || missed=1; \
	.venv/bin/python services/sizing-api/tools/load.py --pictures "$(RENDERS)" || missed=1; exit $$missed

.PHONY: bench-people
bench-people: setup model ## Errors on real people, for evaluation only: DATA=folder with people.csv
	$(call needs,DATA)
	.venv/bin/python services/sizing-api/tools/bench_people.py --data "$(DATA)"

check-photos: setup model ## What the photo check says of PHOTOS=folder, none of which may be measured; RENDERS=renders2/dev adds made situations
	$(call needs,PHOTOS)
	.venv/bin/python services/sizing-api/tools/check_photos.py --photos "$(PHOTOS)" $(if $(RENDERS),--renders "$(RENDERS)")

.PHONY: sample-sets
sample-sets: setup ## Open all pictures below SETS="folder folder", no crash allowed, and compare them with libvips
	$(PY) packages/service-kit/tools/sample_sets.py $(SETS)

include deploy/deploy.mk
-include deploy/local/local.mk
