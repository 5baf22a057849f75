"""REDIS_URL: read once, and told to redis-py and to kombu alike."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.connection import Connection
from redis.connection import parse_url

from wearon_service_kit.redis_address import RedisAddress, RedisUrlInvalid, parse_redis_url


@pytest.mark.parametrize(
    ("url", "nodes", "db", "ignored"),
    [
        ("redis://localhost", (("localhost", 6379),), 0, ()),
        ("REDIS://Localhost:6380/3", (("localhost", 6380),), 3, ()),
        ("redis://h/", (("h", 6379),), 0, ()),
        ("redis://h?db=2", (("h", 6379),), 2, ()),
        ("redis://h/2?db=2", (("h", 6379),), 2, ()),
        ("redis://[::1]:6380/1", (("::1", 6380),), 1, ()),
        ("redis://h/0?family=0&enableReadyCheck=false", (("h", 6379),), 0, ("enableReadyCheck", "family")),
        ("redis://h/0?socket_timeout=abc", (("h", 6379),), 0, ("socket_timeout",)),
        ("redis://h/0?client_name=other", (("h", 6379),), 0, ("client_name",)),
        ("sentinel://a,b:26380,c/1?master_name=m", (("a", 26379), ("b", 26380), ("c", 26379)), 1, ()),
        ("sentinel://a:1;sentinel://b:2/0?master_name=m", (("a", 1), ("b", 2)), 0, ()),
    ],
)
def test_url_is_read_as_written(
    url: str, nodes: tuple[tuple[str, int], ...], db: int, ignored: tuple[str, ...]
) -> None:
    address = parse_redis_url(url)
    assert (address.nodes, address.db, address.ignored) == (nodes, db, ignored)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:6379", "must look like"),
        ("http://localhost:6379", "must look like"),
        ("unix:///tmp/redis.sock", "must look like"),
        ("redis://", "must look like"),
        ("redis:///0", "must look like"),
        ("redis://h:port/0", "must look like"),
        ("redis://h:99999/0", "must look like"),
        ("redis://h:0/0", "must look like"),
        ("redis://[::1/0", "must look like"),
        ("redis://h/zero", "a database that is no number"),
        ("redis://h?db=two", "a database that is no number"),
        ("redis://h/1?db=2", "one database in its path and another"),
        ("redis://h?db=1&db=2", "db more than once"),
        ("redis://a,b/0", "begin with sentinel://"),
        ("redis+cluster://h", "not supported"),
        ("sentinel://a,b/0", "add ?master_name="),
        ("redis://h?ssl_cert_reqs=none", "use rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "none of required, optional, none"),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true", "does not verify"),
        ("sentinel://a?master_name=m&ssl_ca_certs=/x", "use ?tls=true"),
        ("sentinel://a?master_name=m&tls=maybe", "neither true nor false"),
    ],
)
def test_url_that_cannot_work_is_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises(RedisUrlInvalid) as refused:
        parse_redis_url(url)
    assert says in str(refused.value)


@pytest.mark.parametrize("spelling", ["required", "REQUIRED", "CERT_REQUIRED", "cert_required"])
def test_celerys_spelling_of_the_certificate_rule_is_understood(spelling: str) -> None:
    assert parse_redis_url(f"rediss://h?ssl_cert_reqs={spelling}").tls == {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
    }


def test_certificates_are_verified_unless_told_otherwise() -> None:
    assert parse_redis_url("rediss://h").tls == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert parse_redis_url("rediss://h?ssl_cert_reqs=none").tls == {
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
    }


def test_sentinels_have_a_login_of_their_own() -> None:
    address = parse_redis_url(
        "sentinel://user:secret@a,b/0?master_name=m&sentinel_username=watch&sentinel_password=other"
    )
    assert address.connection_options() == {"username": "user", "password": "secret", "db": 0}
    assert address.sentinel_options() == {"username": "watch", "password": "other"}
    assert address.secrets == ("secret", "other")


_PASSWORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
_HOSTS = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9](\.[a-z]{2,6})?", fullmatch=True) | st.just("::1")


@given(
    scheme=st.sampled_from(["redis", "rediss", "Redis"]),
    user=st.from_regex(r"[a-z]{0,8}", fullmatch=True),
    password=_PASSWORDS,
    host=_HOSTS,
    port=st.none() | st.integers(1, 65535),
    db=st.none() | st.integers(0, 15),
    extra=st.sampled_from(["", "?family=6", "?ssl=true&x=1"]),
)
def test_kombu_and_redis_py_connect_to_the_same_place(
    scheme: str, user: str, password: str, host: str, port: int | None, db: int | None, extra: str
) -> None:
    shown = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{user}:{quote(password, safe='')}@{shown}"
    url += f":{port}" * (port is not None) + f"/{db}" * (db is not None) + extra
    address = parse_redis_url(url)
    assert (address.nodes, address.db) == (((host, port or 6379),), db or 0)
    assert (address.login.username or "", address.login.password) == (user, password)
    _assert_kombu_and_redis_py_agree(address)


def _assert_kombu_and_redis_py_agree(address: RedisAddress) -> None:
    kombu = Connection(address.broker_url())  # type: ignore[no-untyped-call]
    told = parse_url(address.broker_url())  # type: ignore[no-untyped-call]
    [(host, port)] = address.nodes
    assert (kombu.hostname, kombu.port) == (host, port)
    assert int(kombu.virtual_host or 0) == address.db
    assert (kombu.userid or None, kombu.password) == (address.login.username, address.login.password)
    assert (told["host"], told["port"], told["db"]) == (host, port, address.db)


def test_kombu_reads_every_sentinel() -> None:
    address = parse_redis_url("sentinel://u:p%40ss@a,b:26380/2?master_name=m")
    kombu = Connection(address.broker_url())  # type: ignore[no-untyped-call]
    assert kombu.alt == ["sentinel://u:p%40ss@a:26379/2", "sentinel://u:p%40ss@b:26380/2"]
    assert (kombu.userid, kombu.password, kombu.virtual_host) == ("u", "p@ss", "2")
