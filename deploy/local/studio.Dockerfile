# The studio page for docker-compose.yml, with the sizing code that draws on photos. Never for production.
# Built from the root of the repository: docker build -f deploy/local/studio.Dockerfile .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Unpinned on purpose: the base image decides which Debian, and its security updates are wanted.
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends libegl1 libgles2 \
 && rm -rf /var/lib/apt/lists/*
# MediaPipe is linked against these and calls none of them, see services/sizing-api/Dockerfile.
RUN mkdir /opt/gl && cp -L /usr/lib/*/libEGL.so.1 /usr/lib/*/libGLESv2.so.2 /usr/lib/*/libGLdispatch.so.0 /opt/gl/
COPY services/sizing-api/fetch_model.py /build/
RUN python /build/fetch_model.py /opt/models/pose_landmarker_full.task
RUN python -m venv --without-pip /opt/venv
COPY deploy/local/requirements-studio.lock /build/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
      --require-hashes --no-deps -r /build/requirements-studio.lock

FROM ${BASE}
COPY --from=build /opt/gl/ /usr/local/lib/
RUN ldconfig \
 && groupadd --system --gid 10001 wearon \
 && useradd --system --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin wearon
COPY --from=build /opt/models /opt/models
COPY --from=build /opt/venv /opt/venv
# The package finds the samples by their place in the repository.
COPY packages/contracts/src /repo/packages/contracts/src
COPY packages/service-kit/src /repo/packages/service-kit/src
COPY services/sizing-api/src /repo/services/sizing-api/src
COPY deploy/local/samples /repo/deploy/local/samples
COPY deploy/local/src /repo/deploy/local/src
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/repo/deploy/local/src:/repo/packages/contracts/src:/repo/packages/service-kit/src:/repo/services/sizing-api/src \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MEDIAPIPE_MODEL_PATH=/opt/models/pose_landmarker_full.task \
    MPLCONFIGDIR=/tmp/matplotlib \
    MPLBACKEND=agg
WORKDIR /repo
USER 10001:10001
CMD ["python", "-m", "wearon_local.studio", "--host", "0.0.0.0"]
