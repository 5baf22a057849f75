"""Environment variables that libraries read by themselves, behind the settings' back.

One rule for proxies and private certificate authorities, whichever client it is:

- Calls of Supabase and of the image provider go through HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, unless NO_PROXY
  names the host or it is this machine.
- Redis is never reached through a proxy, nor are the pictures of a task: their addresses are checked when
  they are dialled, which a proxy would do unseen.
- SSL_CERT_FILE names certificate authorities to trust besides the public ones, for every client.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

CERT_FILE: Final = "SSL_CERT_FILE"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a variable may not be set; `even_blank`: its library takes the empty string for a value, too."""

    why: str
    even_blank: bool = False


def refusals(refused: Mapping[str, Refused], environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable of `refused` that is set in `environment`."""
    return [
        f"{name} is set, but {rule.why}: unset it"
        for name, rule in refused.items()
        if name in environment and (rule.even_blank or environment[name].strip())
    ]


def check_cert_file(path: str) -> str:
    """Return `path`; raises ValueError unless it is a file of certificates in PEM form."""
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise ValueError("must be a readable file of certificates in PEM form") from error
    return path


def show_cert_file_to_openssl(path: str | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let every TLS context of the process trust what SSL_CERT_FILE names, wherever it was set.

    OpenSSL reads the variable itself, but not from a .env file; a blank one would take away the system's own.
    """
    if path:
        environment[CERT_FILE] = path
    else:
        environment.pop(CERT_FILE, None)


def check_proxy(text: str) -> str:
    """The proxy's URL, with http:// where no scheme was given; raises ValueError if it cannot be one."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and parts.path in ("", "/")
            and not parts.query
        )
    except ValueError:
        usable = False
    if not usable or " " in url or not (url.isascii() and url.isprintable()):
        raise ValueError("must be http://host:port or https://host:port, with user:password@ if need be")
    return url


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxy URLs by scheme of the target, and the hosts that are reached without one (as in NO_PROXY)."""

    http: str | None = None
    https: str | None = None
    every: str | None = None
    exceptions: str = ""

    def between_us_and(self, url: str) -> str | None:
        """The proxy for calls of `url`; None: directly."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        if _is_this_machine(host) or any(_covers(e, host, port) for e in self.exceptions.split(",")):
            return None
        return (self.https if parts.scheme == "https" else self.http) or self.every


def _covers(exception: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY names this host and port, a domain or network it is in, or all."""
    entry = exception.strip().lower()
    name, _, number = entry.rpartition(":")
    if name.count(":") == 0 and number.isdecimal() and name:
        if int(number) != port:
            return False
        entry = name
    entry = entry.removeprefix("*.").lstrip(".").strip("[]")
    if entry in ("", "*"):
        return entry == "*"
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return host == entry or host.endswith(f".{entry}")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
