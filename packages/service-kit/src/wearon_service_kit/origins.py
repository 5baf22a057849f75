"""Web origins: `scheme://host[:port]`, the unit in which a server is trusted or rewritten."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


def canonical_origin(scheme: str, host: str, port: int | None) -> str:
    """One spelling per origin: lower case, IPv6 shortened and in brackets, no default port."""
    host = host.lower()
    if ":" in host:
        host = f"[{ipaddress.IPv6Address(host).compressed}]"
    suffix = "" if port is None or port == DEFAULT_PORTS.get(scheme) else f":{port}"
    return f"{scheme}://{host}{suffix}"


def parse_origin(text: str) -> str:
    """The canonical form of `scheme://host[:port]`, a trailing slash allowed.

    Raises ValueError, whose message says what to write and never repeats `text`.
    """
    parts = _split_http(text)
    if parts.path not in ("", "/") or parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must be scheme://host[:port] and nothing after it")
    return _origin(parts)


def parse_base_url(text: str) -> str:
    """The canonical form of an http(s) URL that paths are appended to: origin, path, no slash at the end.

    Raises ValueError, whose message says what to write and never repeats `text`.
    """
    parts = _split_http(text)
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must be an http(s) URL without ? and #")
    return _origin(parts) + parts.path.rstrip("/")


def _split_http(text: str) -> SplitResult:
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("must be an http(s) URL of plain ASCII characters")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
        if ":" in host:
            ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError("must be an http(s) URL with a valid host and port") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("must start with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password")
    if not (":" in host or _HOST_NAME.fullmatch(host)) or port == 0:
        raise ValueError("must be an http(s) URL with a valid host and port")
    return parts


def _origin(parts: SplitResult) -> str:
    return canonical_origin(parts.scheme, parts.hostname or "", parts.port)
