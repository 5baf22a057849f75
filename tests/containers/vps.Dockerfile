# Plays the server for the dry run of a deployment: sshd, and docker with compose, which talk to the host's engine.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server docker.io docker-compose \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /run/sshd /root/.ssh
CMD ["/usr/sbin/sshd", "-D", "-e"]
