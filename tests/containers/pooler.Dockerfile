# Debian's pgbouncer, the pooler whose transaction mode is the strictest to be had.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer \
 && rm -rf /var/lib/apt/lists/*
USER postgres
CMD ["pgbouncer", "/etc/pooler/pgbouncer.ini"]
