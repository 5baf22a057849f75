"""Needs a container engine. Not collected by `make test`, run by `make smoke` and `make test-containers`."""
