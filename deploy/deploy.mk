# Images, containers and what deploys them. Included by the Makefile.

IMAGE_BASE ?= python:3.11-slim-bookworm
TAG ?= dev
VERSION ?= $(shell cat VERSION)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
SOURCE ?= $(shell git config --get remote.origin.url 2>/dev/null || echo unknown)
BUILD = docker build --quiet $(if $(PULL),--pull) --build-arg BASE=$(IMAGE_BASE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg SOURCE=$(SOURCE) $(if $(TRACING),--build-arg TRACING=1)
DEPLOY_SCRIPTS = deploy/migrate deploy/rollout deploy/wearon deploy/server.sh deploy/nginx/ready deploy/nginx/check deploy/ship deploy/cd deploy/k8s/render tests/rollout/docker-standin deploy/container-engine deploy/changed-images deploy/local/compose/prepare-database .ci/run

.PHONY: images smoke test-containers test-on-containers test-pooler test-rollout test-documents test-traces image-sizes try-real lint-deploy lock-local notices

images: ## Build the images of the services and the stand-ins; PULL=1: on the newest base, TRACING=1: that can trace; TAG=dev
	@deploy/container-engine
	$(BUILD) -f services/consumer/Dockerfile -t wearon-consumer:$(TAG) .
	$(BUILD) -f services/generator/Dockerfile -t wearon-generator:$(TAG) .
	$(BUILD) -f services/sizing-api/Dockerfile -t wearon-sizing:$(TAG) .
	$(BUILD) -f deploy/local/Dockerfile -t wearon-local:dev .

smoke: setup ## Try the images in docker-compose.yml: a job, sizing, scaling, kill, stop, what is inside
	@deploy/container-engine
	BASE=$(IMAGE_BASE) $(PY) -m pytest -q -s tests/containers/check_images.py tests/containers/check_compose.py

test-containers: test-on-containers test-pooler test-traces test-rollout test-documents ## test-on-containers, -pooler, -traces, -rollout and -documents, after `make images`

test-on-containers: setup ## The integration tests on containers
	@deploy/container-engine
	TESTCONTAINERS_RYUK_DISABLED=true $(PY) -m pytest -q -p tests.containers.servers tests/integration

test-pooler: setup ## Migrations through a transaction pooler
	@deploy/container-engine
	BASE=$(IMAGE_BASE) $(PY) -m pytest -q tests/containers/check_pooler.py

test-traces: setup ## Images that can trace: one job and one size, told to a collector; built here under a tag of their own
	@$(MAKE) --no-print-directory images TRACING=1 TAG=tracing
	$(PY) -m pytest -q -s tests/containers/check_traces.py

test-rollout: setup ## Dry runs of a deployment over SSH, on the engine; ONLY=first_deployment: just that
	@deploy/container-engine
	BASE=$(IMAGE_BASE) $(PY) -m pytest -q -s tests/containers/check_rollout.py $(if $(ONLY),-k $(ONLY))

test-documents: setup ## The documents' commands, as written: from an empty server to live, cut-over, new key, upgrade, back
	@deploy/container-engine
	BASE=$(IMAGE_BASE) $(PY) -m pytest -q -s tests/containers/check_documents.py

image-sizes: setup ## Each image's size beside that of one image holding all three services
	@deploy/container-engine
	BASE=$(IMAGE_BASE) $(PY) -m tests.containers.sizes

try-real: setup ## One try-on with a real OpenAI key (costs a few cents): picture, seconds and cost
	$(PY) deploy/tools/try_real.py $(if $(PERSON),--person $(PERSON)) $(if $(GARMENT),--garment $(GARMENT))

lint-deploy: setup ## Dockerfiles, workflows, shell, compose and Kubernetes files, alerts, notices
	$(PY) deploy/tools/notices.py --check
	.venv/bin/hadolint --failure-threshold warning services/*/Dockerfile deploy/local/*ockerfile tests/containers/*.Dockerfile
	.venv/bin/shellcheck -x $(DEPLOY_SCRIPTS)
	.venv/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.override.yml deploy/compose.*.yml
	.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	.venv/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	.venv/bin/zizmor --quiet --offline .github/workflows
	@if command -v kubectl >/dev/null; then $(PY) -m pytest -q tests/k8s/check_k8s.py; \
	else echo "kubectl is not here, so the Kubernetes files were not rendered and checked"; fi
	@if command -v promtool >/dev/null; then promtool check config --syntax-only deploy/monitoring/prometheus.yml && promtool check rules deploy/monitoring/rules/wearon.yml && promtool test rules deploy/monitoring/rules/wearon_test.yml; \
	else echo "promtool is not here, so the alert rules were not run (Debian: apt-get install prometheus)"; fi

lock-local: setup ## Compile the lock of the stand-ins' image again
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements-dev.lock deploy/local/requirements.in -o deploy/local/requirements.lock

notices: setup ## Write THIRD_PARTY_NOTICES.md again from the locks
	$(PY) deploy/tools/notices.py
