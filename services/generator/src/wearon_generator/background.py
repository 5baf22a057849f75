"""The service kit's `Background`, under the name that this service has always used."""

from wearon_service_kit.background import Background

__all__ = ["Background"]
