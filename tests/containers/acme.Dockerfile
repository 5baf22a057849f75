# Debian's certificate authority for tests (pebble), which speaks to certbot as Let's Encrypt does.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssl pebble \
 && rm -rf /var/lib/apt/lists/* \
 && openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=acme -addext subjectAltName=DNS:acme \
      -keyout /etc/acme-key.pem -out /etc/acme.pem \
 && printf '{"pebble": {"listenAddress": ":14000", "managementListenAddress": ":15000", "certificate": "/etc/acme.pem", "privateKey": "/etc/acme-key.pem", "httpPort": 80, "tlsPort": 443}}' >/etc/acme.json
# It looks at each challenge anew and at once, and refuses no good nonce, as it otherwise does by chance.
ENV PEBBLE_VA_NOSLEEP=1 PEBBLE_AUTHZREUSE=0 PEBBLE_WFE_NONCEREJECT=0
CMD ["pebble", "-config", "/etc/acme.json"]
