# What one image for everything would be, for `make image-sizes` alone: the rival to three images.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY services/sizing-api/fetch_model.py /build/
RUN python /build/fetch_model.py /opt/models/pose_landmarker_full.task \
 && python -m venv --without-pip /opt/venv
COPY services/consumer/requirements.lock /build/consumer.lock
COPY services/generator/requirements.lock /build/generator.lock
COPY services/sizing-api/requirements.lock /build/sizing-api.lock
RUN for service in consumer generator sizing-api; do \
      pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --no-deps -r "/build/$service.lock" || exit 1; \
    done \
 && find /opt/venv -depth \( -type d \( -name tests -o -name test \) \
      -o -type f \( -name 'test_*.py' -o -name conftest.py \) \) -exec rm -rf {} +
COPY packages/contracts/src packages/service-kit/src services/consumer/src services/generator/src services/sizing-api/src /app/
RUN python -m compileall -q /app

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends libegl1 libgles2 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/models /opt/models
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
USER 10001:10001
