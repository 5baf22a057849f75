"""Reads REDIS_URL once, so that redis-py and kombu, which read URLs differently, are told the same.

    redis://[user:password@]host[:port][/db]           one server
    rediss://…                                         the same over TLS, certificate and host verified
    sentinel://[user:password@]host[:port][,host…]/[db]?master_name=…   the primary that Sentinels name

Options in the query: `db`, `username`, `password`; with TLS `ssl_cert_reqs` (required, optional or none;
CERT_REQUIRED, as Celery spells it, too), `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname`;
with Sentinel `master_name`, `sentinel_username`, `sentinel_password` and `tls`. Others (of ioredis, say) are
not used and named in `ignored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
NO_CLUSTER: Final = "which is not supported: one transaction moves a task between keys of different slots"

_CERT_REQS: Final = {
    spelling: value for value in ("required", "optional", "none") for spelling in (value, f"cert_{value}")
}
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_COMMON: Final = frozenset({"db", "username", "password"})
_TLS: Final = frozenset(
    {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
)
_SENTINEL: Final = frozenset({"master_name", "sentinel_username", "sentinel_password", "tls"})
_FORM: Final = (
    "must look like redis://host:port/0, rediss://:password@host:port/0 "
    "or sentinel://host,host/0?master_name=name"
)
_LARGEST_DB: Final = 2**31 - 1


class RedisUrlInvalid(ValueError):
    """The URL names no Redis that the services can use; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Login:
    """Name and password of an ACL user; both None without authentication."""

    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is and how to connect.

    `nodes`: host and port of the server, or of each Sentinel when `master_name` is set. `tls`: the ssl_*
    arguments of redis-py's connections, None without TLS. `ignored`: options of the URL that are not used.
    """

    nodes: tuple[tuple[str, int], ...]
    db: int
    login: Login
    tls: dict[str, Any] | None
    master_name: str | None
    sentinel_login: Login
    ignored: tuple[str, ...]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords, to be hidden in logs."""
        return tuple(filter(None, (self.login.password, self.sentinel_login.password)))

    def connection_options(self) -> dict[str, Any]:
        """Arguments of a redis-py connection to the server itself, without host and port."""
        return {**_login_options(self.login), "db": self.db, **(self.tls or {})}

    def sentinel_options(self) -> dict[str, Any]:
        """Arguments of a redis-py connection to a Sentinel, without host and port."""
        return {
            **_login_options(self.sentinel_login),
            **({"ssl": True, **self.tls} if self.tls is not None else {}),
        }

    def broker_url(self) -> str:
        """The same address as kombu reads it; options go beside it, see `wearon_generator.celery_app`."""
        scheme = "redis" if self.master_name is None else "sentinel"
        user, password = (quote(part or "", safe="") for part in (self.login.username, self.login.password))
        login = f"{user}:{password}@" if user or password else ""
        urls = [f"{scheme}://{login}{_bracketed(host)}:{port}/{self.db}" for host, port in self.nodes]
        return ";".join(urls)


def parse_redis_url(url: str) -> RedisAddress:
    """Raises `RedisUrlInvalid`; its message never holds the URL, which may carry a password."""
    scheme, separator, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ("redis", "rediss", "sentinel"):
        raise RedisUrlInvalid(_wrong_scheme(scheme if separator else ""))
    rest = rest.replace(";sentinel://", ",")  # kombu writes a list of Sentinels so
    location, _, query = rest.partition("?")
    authority, _, path = location.partition("/")
    options = _options(query)
    userinfo, _, hosts = authority.rpartition("@")
    sentinel = scheme == "sentinel"
    default_port = SENTINEL_PORT if sentinel else REDIS_PORT
    nodes = tuple(_node(part, default_port) for part in hosts.split(","))
    if len(nodes) > 1 and not sentinel:
        raise RedisUrlInvalid(
            "names several hosts: for Sentinel begin with sentinel://; Cluster is not supported"
        )
    user, _, password = userinfo.partition(":")
    return RedisAddress(
        nodes=nodes,
        db=_db(path, options.get("db")),
        login=Login(
            unquote(user) or options.get("username"),
            unquote(password) or options.get("password"),
        ),
        tls=_tls(scheme, options),
        master_name=_master_name(options) if sentinel else None,
        sentinel_login=Login(options.get("sentinel_username"), options.get("sentinel_password"))
        if sentinel
        else Login(),
        ignored=tuple(sorted(set(options) - _COMMON - _TLS - (_SENTINEL if sentinel else frozenset()))),
    )


def _wrong_scheme(scheme: str) -> str:
    if "cluster" in scheme:
        return f"names a Redis Cluster, {NO_CLUSTER}"
    return _FORM


def _options(query: str) -> dict[str, str]:
    found = parse_qs(query, keep_blank_values=False)
    twice = sorted(name for name, values in found.items() if len(set(values)) > 1)
    if twice:
        raise RedisUrlInvalid(f"gives {', '.join(twice)} more than once")
    return {name: values[0] for name, values in found.items()}


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RedisUrlInvalid(_FORM) from error
    if not host or port == 0 or any(character.isspace() for character in host):
        raise RedisUrlInvalid(_FORM)
    return unquote(host), port or default_port


def _db(path: str, option: str | None) -> int:
    numbers = {text for text in (path.strip("/"), option) if text}
    if any(not (text.isascii() and text.isdecimal()) or int(text) > _LARGEST_DB for text in numbers):
        raise RedisUrlInvalid(f"names a database that is no number: it {_FORM}")
    if len({int(text) for text in numbers}) > 1:
        raise RedisUrlInvalid("names one database in its path and another one as ?db=")
    return int(numbers.pop()) if numbers else 0


def _tls(scheme: str, options: dict[str, str]) -> dict[str, Any] | None:
    given = {name: options[name] for name in sorted(_TLS & set(options))}
    wanted = scheme == "rediss" or (scheme == "sentinel" and _boolean("tls", options.get("tls", "false")))
    if not wanted:
        if given:
            how = "?tls=true" if scheme == "sentinel" else "rediss://"
            raise RedisUrlInvalid(f"has {', '.join(given)} but no TLS: use {how}")
        return None
    cert_reqs = _CERT_REQS.get(given.get("ssl_cert_reqs", "required").lower())
    if cert_reqs is None:
        raise RedisUrlInvalid("has an ssl_cert_reqs that is none of required, optional, none")
    verify = cert_reqs != "none"
    check_hostname = _boolean("ssl_check_hostname", given.get("ssl_check_hostname", str(verify)))
    if check_hostname and not verify:
        raise RedisUrlInvalid("checks the host name of a certificate that it does not verify")
    files: dict[str, Any] = {
        name: given[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in given
    }
    return {"ssl_cert_reqs": cert_reqs, "ssl_check_hostname": check_hostname, **files}


def _boolean(name: str, text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise RedisUrlInvalid(f"has a {name} that is neither true nor false") from None


def _master_name(options: dict[str, str]) -> str:
    name = options.get("master_name")
    if not name:
        raise RedisUrlInvalid("names Sentinels but no primary: add ?master_name=…")
    return name


def _login_options(login: Login) -> dict[str, Any]:
    return {"username": login.username, "password": login.password}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
