"""Variables that libraries read by themselves: one rule for proxies and certificates, the rest refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import certifi
import pytest

from wearon_service_kit.environment import (
    Proxies,
    Refused,
    check_cert_file,
    check_proxy,
    show_cert_file_to_openssl,
)
from wearon_service_kit.settings import ServiceSettings, load_settings

PROXIES = Proxies(http="http://plain:1", https="http://secure:2")


@pytest.mark.parametrize(
    ("proxies", "url", "proxy"),
    [
        (PROXIES, "https://api.openai.com/v1", "http://secure:2"),
        (PROXIES, "http://supabase.internal", "http://plain:1"),
        (Proxies(every="http://any:3"), "https://api.openai.com/v1", "http://any:3"),
        (Proxies(https="http://secure:2", every="http://any:3"), "https://x.y", "http://secure:2"),
        (Proxies(), "https://api.openai.com/v1", None),
        (PROXIES, "http://127.0.0.1:8000", None),
        (PROXIES, "http://[::1]:8000", None),
        (PROXIES, "https://localhost/v1", None),
        *(
            (Proxies(https="http://secure:2", exceptions=no), "https://db.example.com", None)
            for no in (
                "*",
                "example.com",
                ".example.com",
                "*.example.com",
                "a, db.example.com",
                "EXAMPLE.com",
            )
        ),
        (Proxies(https="http://s:2", exceptions="db.example.com:443"), "https://db.example.com", None),
        (
            Proxies(https="http://s:2", exceptions="db.example.com:8443"),
            "https://db.example.com",
            "http://s:2",
        ),
        (Proxies(https="http://s:2", exceptions="ample.com"), "https://db.example.com", "http://s:2"),
        (Proxies(https="http://s:2", exceptions=" , ,"), "https://db.example.com", "http://s:2"),
        (Proxies(https="http://s:2", exceptions="10.0.0.0/8"), "https://10.1.2.3:8443", None),
        (Proxies(https="http://s:2", exceptions="10.0.0.0/8"), "https://11.1.2.3", "http://s:2"),
        (Proxies(https="http://s:2", exceptions="fd00::/8"), "https://[fd00::1]/", None),
        (Proxies(https="http://s:2", exceptions="()&%/nonsense"), "https://db.example.com", "http://s:2"),
    ],
)
def test_proxy_is_the_schemes_unless_no_proxy_names_the_host(
    proxies: Proxies, url: str, proxy: str | None
) -> None:
    assert proxies.between_us_and(url) == proxy


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("https://user:word@proxy:3128/", "https://user:word@proxy:3128/"),
        ("proxy:3128", "http://proxy:3128"),
    ],
)
def test_proxy_url_is_taken_with_or_without_its_scheme(text: str, url: str) -> None:
    assert check_proxy(text) == url


@pytest.mark.parametrize(
    "text",
    ["socks5://proxy:1", "http://", "http://proxy:x", "http://proxy/path", "a b", "http://proxy:0", "é:1"],
)
def test_proxy_url_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be http"):
        check_proxy(text)


def test_cert_file_must_hold_certificates(tmp_path: Path) -> None:
    assert check_cert_file(certifi.where()) == certifi.where()
    (tmp_path / "empty.pem").write_text("nonsense")
    for path in (str(tmp_path / "empty.pem"), str(tmp_path / "missing.pem"), str(tmp_path)):
        with pytest.raises(ValueError, match="PEM"):
            check_cert_file(path)


def test_openssl_sees_the_cert_file_of_the_settings_and_no_blank_one() -> None:
    environment = {"SSL_CERT_FILE": ""}
    show_cert_file_to_openssl(None, environment)
    assert environment == {}
    show_cert_file_to_openssl("/ca.pem", environment)
    assert environment == {"SSL_CERT_FILE": "/ca.pem"}


class Careful(ServiceSettings):
    refused_variables: ClassVar[Mapping[str, Refused]] = {
        "OTHER_URL": Refused("the server is URL"),
        "FOLDER": Refused("there is none", even_blank=True),
    }


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"OTHER_URL": "x"}, "Configuration error: OTHER_URL is set, but the server is URL: unset it\n"),
        ({"FOLDER": ""}, "Configuration error: FOLDER is set, but there is none: unset it\n"),
        ({"OTHER_URL": " "}, None),
        ({}, None),
    ],
)
def test_variable_that_would_change_a_library_unseen_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    line: str | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if line is None:
        load_settings(Careful)
        return
    with pytest.raises(SystemExit):
        load_settings(Careful)
    assert capsys.readouterr().err == line
