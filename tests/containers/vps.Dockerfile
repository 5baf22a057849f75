# Plays a server and, for the documents' commands, also the operator's own machine.
ARG BASE=python:3.11-slim-bookworm

# As a provider hands it over: sshd and little else.
FROM ${BASE} AS fresh
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends adduser iptables openssh-server procps \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -m 700 /run/sshd /root/.ssh
CMD ["/usr/sbin/sshd", "-D", "-e"]

FROM fresh AS workstation
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends curl postgresql-client \
 && rm -rf /var/lib/apt/lists/*

# docker and compose, which here talk to the host's engine.
FROM fresh
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io docker-compose \
 && rm -rf /var/lib/apt/lists/*
