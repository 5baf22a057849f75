"""A URL from a stranger: what may be asked for at all, and where it leads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import httpcore
import httpx

from wearon_contracts.fields import MAX_URL_LENGTH
from wearon_service_kit.checked_http.addresses import is_public
from wearon_service_kit.checked_http.errors import Rule, TargetRefused
from wearon_service_kit.origins import canonical_origin, parse_origin

_PERMITTED_PORTS: Final = (80, 443)
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
# The last label of a host name is never a number; libc and browsers then read the whole as an IPv4 address.
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_SIGNED_PATH: Final = re.compile(rb"/storage/v1/(object|render/image)/sign/")


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be asked for. `trusted`: its server is one of our own."""

    url: httpcore.URL
    host_header: bytes
    trusted: bool

    @property
    def host(self) -> str:
        """The server's name, for the log."""
        return self.url.host.decode("ascii")

    @property
    def signed(self) -> bool:
        """Whether it is a link of our own Storage that expires."""
        return self.trusted and _SIGNED_PATH.match(self.url.target) is not None


class Targets:
    """Turns URLs into targets.

    Refused: what is no http(s) URL; user names and passwords; ports other than 80 and 443; an address outside
    the public internet that stands in the URL itself, and odd spellings of one. `trusted_origins`
    (scheme://host[:port], exactly) are excepted from the rules about ports and addresses, and from no other.
    `rewrite_origins` maps an origin as others write it to the one to ask, which is thereby trusted.
    """

    def __init__(self, trusted_origins: Iterable[str], rewrite_origins: Mapping[str, str]) -> None:
        self._rewrite = {
            parse_origin(source): httpcore.URL(parse_origin(target))
            for source, target in rewrite_origins.items()
        }
        self._trusted = {parse_origin(origin) for origin in trusted_origins}
        self._trusted |= {parse_origin(origin) for origin in rewrite_origins.values()}

    def of(self, url: str) -> Target:
        """Where `url` leads; raises `TargetRefused` when it may not be asked for."""
        parsed = _parse(url)
        host = parsed.raw_host.decode("ascii")
        origin = canonical_origin(parsed.scheme, host, parsed.port)
        wire = httpcore.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
        )
        if origin in self._rewrite:
            base = self._rewrite[origin]
            wire = httpcore.URL(scheme=base.scheme, host=base.host, port=base.port, target=wire.target)
            host = base.host.decode("ascii")
            origin = canonical_origin(base.scheme.decode("ascii"), host, base.port)
        trusted = origin in self._trusted
        if not trusted:
            _check_public(host, parsed.port)
        return Target(wire, origin.partition("://")[2].encode("ascii"), trusted)


def _parse(url: str) -> httpx.URL:
    if len(url) > MAX_URL_LENGTH:
        raise TargetRefused(Rule.URL, "too long")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise TargetRefused(Rule.URL, type(error).__name__) from error
    if not parsed.scheme:
        raise TargetRefused(Rule.URL, "no scheme")
    if parsed.scheme not in ("http", "https"):
        raise TargetRefused(Rule.SCHEME, parsed.scheme[:20])
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "@" in authority or parsed.userinfo:
        raise TargetRefused(Rule.CREDENTIALS)
    if not parsed.raw_host or "\\" in authority:
        raise TargetRefused(Rule.URL, "no valid host")
    return parsed


def _check_public(host: str, port: int | None) -> None:
    """What can be said of a URL from a stranger before its host is looked up."""
    if port is not None and port not in _PERMITTED_PORTS:
        raise TargetRefused(Rule.PORT, f"port {port}")
    is_number = _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None
    if ":" not in host and not _HOST_NAME.fullmatch(host):
        raise TargetRefused(Rule.URL, "no valid host name")
    if ":" in host or is_number:
        try:
            address = ip_address(host)
        except ValueError:  # decimal, octal, hexadecimal, short: only the plain forms are read
            raise TargetRefused(Rule.ADDRESS, "an odd spelling of an address") from None
        if not is_public(address):
            raise TargetRefused(Rule.ADDRESS, f"{host} is not on the public internet")
