"""Settings: what is accepted, and how everything wrong is reported in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from wearon_service_kit.redaction import hide
from wearon_service_kit.settings import (
    HttpOrigin,
    HttpUrl,
    OriginList,
    ProxyUrl,
    RedisUrl,
    Secret,
    SecretList,
    ServiceSettings,
    env_example,
    load_settings,
)


class Worker(ServiceSettings):
    redis_url: Annotated[RedisUrl, Field(description="Where the jobs wait.")]
    supabase_url: Annotated[HttpOrigin, Field(description="The project's address.")]
    api_key: Annotated[Secret, Field(description="Key of the image service.")]
    base_url: HttpUrl | None = None
    trusted: OriginList = ()
    keys: SecretList = ()
    proxy: ProxyUrl | None = None
    per_minute: Annotated[int, Field(ge=1, description="Jobs per minute.")] = 300
    health_port: Annotated[int, Field(description="Port for probes.")] = 8002


class Reader(ServiceSettings):
    redis_url: Annotated[RedisUrl, Field(description="Where the jobs wait.")]
    health_port: Annotated[int, Field(description="Port for probes.")] = 8001


Load = Callable[[Mapping[str, str]], Worker]

GOOD = {"REDIS_URL": "redis://localhost:6379/0", "SUPABASE_URL": "https://x.supabase.co", "API_KEY": "sk-1"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for cls in (Worker, Reader):
        for name in cls.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    def loader(env: Mapping[str, str]) -> Worker:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return load_settings(Worker)

    return loader


def refusal(load: Load, capsys: pytest.CaptureFixture[str], env: Mapping[str, str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        load(env)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, "one line"
    return captured.err


def test_values_of_the_environment_are_read_and_normalised(load: Load) -> None:
    settings = load({**GOOD, "TRUSTED": " http://a:9000/ ,https://B.example:443,, ", "KEYS": "k1, k2"})
    assert settings.redis_url.get_secret_value() == "redis://localhost:6379/0"
    assert settings.trusted == ("http://a:9000", "https://b.example")
    assert [key.get_secret_value() for key in settings.keys] == ["k1", "k2"]
    assert settings.per_minute == 300
    assert (settings.log_level, settings.log_format) == ("INFO", "json")


def test_every_offending_variable_is_named_in_one_line(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(
        load, capsys, {"REDIS_URL": "localhost:6379", "PER_MINUTE": "0", "TRUSTED": "http://a,ftp://b"}
    )
    for name in ("REDIS_URL", "SUPABASE_URL", "API_KEY", "PER_MINUTE", "TRUSTED"):
        assert name in line
    assert "SUPABASE_URL is not set, for example https://example.com (The project's address)" in line
    assert "TRUSTED (entry 2) must start with http:// or https://" in line
    assert "redis://host:port/0" in line
    assert "HEALTH_PORT" not in line


@pytest.mark.parametrize("value", [",", " , ,"])
def test_a_list_that_names_nothing_is_refused(
    load: Load, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    """Keys that got lost would otherwise leave a service open."""
    assert "KEYS names nothing" in refusal(load, capsys, {**GOOD, "KEYS": value})
    assert load({**GOOD, "KEYS": ""}).keys == ()


def test_no_value_that_was_given_is_shown(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(
        load,
        capsys,
        {
            "REDIS_URL": "http://:hunter2@cache:6379",
            "SUPABASE_URL": "https://hunter2@x.supabase.co",
            "API_KEY": "hunter2",
            "PER_MINUTE": "hunter2",
            "LOG_FORMAT": "hunter2",
            "TRUSTED": "http://hunter2:x",
        },
    )
    assert "hunter2" not in line


@pytest.mark.parametrize("blank", ["", "   ", "\n"])
def test_blank_counts_as_not_set(load: Load, capsys: pytest.CaptureFixture[str], blank: str) -> None:
    line = refusal(load, capsys, {**GOOD, "API_KEY": blank, "PER_MINUTE": blank})
    assert "API_KEY is not set" in line
    assert "PER_MINUTE" not in line, "a blank optional variable has its default"


def test_spaces_and_newlines_around_a_value_do_not_count(load: Load) -> None:
    settings = load({**GOOD, "API_KEY": " sk-1\n", "LOG_LEVEL": "debug "})
    assert settings.api_key.get_secret_value() == "sk-1"
    assert settings.log_level == "DEBUG"


def test_dotenv_is_read_and_the_environment_wins(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PER_MINUTE=7\nHEALTH_PORT=1234\nUNKNOWN=x\n")
    settings = load({**GOOD, "PER_MINUTE": "9"})
    assert (settings.per_minute, settings.health_port) == (9, 1234)


def test_an_unreadable_dotenv_is_reported_in_one_line(
    load: Load, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    assert ".env" in refusal(load, capsys, GOOD)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost", "redis://localhost/", "redis://:p%40w@cache:6380/15", "rediss://u:p@cache:6379/0",
        "redis://[::1]:6379/0",
    ],
)  # fmt: skip
def test_every_form_of_redis_url_is_accepted_unchanged(load: Load, url: str) -> None:
    assert load({**GOOD, "REDIS_URL": url}).redis_url.get_secret_value() == url


def test_malformed_redis_url_is_refused_without_showing_its_password(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(load, capsys, {**GOOD, "REDIS_URL": "redis://:hunter2@h/zero"})
    assert "REDIS_URL names a database that is no number" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('"sk-1"', "quotes around it"),
        ("'sk-1'", "quotes around it"),
        ("\u201csk-1\u201d", "quotes around it"),
        ("sk-1 sk-2", "a space or a line break"),
        ("sk-1\nsk-2", "a space or a line break"),
        ("sk-\u00e9", "a character in it that no key has"),
        ("sk-1\x07", "a character in it that no key has"),
    ],
)
@pytest.mark.parametrize("name", ["API_KEY", "KEYS"])
def test_what_cannot_be_a_secret_is_refused_by_name(
    load: Load, capsys: pytest.CaptureFixture[str], name: str, text: str, says: str
) -> None:
    said = refusal(load, capsys, {**GOOD, name: text})
    assert said.startswith(f"Configuration error: {name}")
    assert says in said
    assert "sk-" not in said


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("https://X.Supabase.co/", "https://x.supabase.co"),
        ("https://x.supabase.co:443", "https://x.supabase.co"),
        ("http://kong:8000", "http://kong:8000"),
        ("http://127.0.0.1:80/", "http://127.0.0.1"),
        ("http://[0:0::1]:54321", "http://[::1]:54321"),
        ("http://my_gateway", "http://my_gateway"),
    ],
)
def test_origins_have_one_spelling(load: Load, given: str, canonical: str) -> None:
    assert load({**GOOD, "SUPABASE_URL": given}).supabase_url == canonical


@pytest.mark.parametrize(
    "url",
    ["x.supabase.co", "ftp://x", "https://", "https://u:p@x", "https://x/rest/v1", "https://x?a=b", "https://x#",
     "https://x:99999", "https://x:0", "https://exa mple", "https://[::1", "https://ex\\ample", "https://é.example"],
)  # fmt: skip
def test_malformed_origin_is_refused(load: Load, capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert "SUPABASE_URL must" in refusal(load, capsys, {**GOOD, "SUPABASE_URL": url})


def test_base_urls_keep_their_path(load: Load) -> None:
    settings = load({**GOOD, "BASE_URL": "http://Host:8080/openai/v1/"})
    assert settings.base_url == "http://host:8080/openai/v1"


def test_a_process_ends_with_code_2_and_without_a_traceback(tmp_path: Path) -> None:
    script = (
        "from wearon_service_kit.settings import *\n"
        "class S(ServiceSettings):\n    redis_url: RedisUrl\n    supabase_url: HttpOrigin\n"
        "load_settings(S)\n"
    )
    env = {"PATH": os.environ["PATH"], "REDIS_URL": "redis//nope"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "REDIS_URL" in done.stderr
    assert "SUPABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_secrets_do_not_show_in_the_repr_and_are_listed_for_the_logs(load: Load) -> None:
    settings = load({**GOOD, "REDIS_URL": "redis://:hunter2@h/0", "KEYS": "key-one,key-two"})
    assert "hunter2" not in repr(settings)
    assert set(settings.secret_values()) == {"hunter2", "sk-1", "key-one", "key-two"}


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ("x-origin=https://foo.example,api-key=hunter22", "api-key: hunter22"),
        ("api-key=hunter22,x-origin=https://foo.example", "api-key: hunter22"),
        ("authorization=Basic%20hunter22,x=1", "Basic hunter22"),
        ("authorization=Basic%20hunter22,x=1", "Basic%20hunter22"),
        ("authorization=Basic hunter22== , x=1", "Basic hunter22=="),
    ],
)
def test_value_of_each_header_for_the_collector_is_hidden(load: Load, headers: str, sent: str) -> None:
    settings = load({**GOOD, "OTEL_EXPORTER_OTLP_HEADERS": headers})
    assert "hunter22" not in hide(settings.secret_values())(f"refused: {sent}")
    assert "hunter22" not in repr(settings)


@pytest.mark.parametrize("url", ["http://u:hunter%402@proxy:3128", "u:hunter%402@proxy:3128"])
def test_password_of_a_proxy_is_hidden_as_written_and_as_sent(load: Load, url: str) -> None:
    hidden = hide(load({**GOOD, "PROXY": url}).secret_values())
    assert hidden("hunter%402 hunter@2 of proxy:3128") == "*** *** of proxy:3128"


def test_the_example_names_every_variable_once_and_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = env_example({"worker": Worker, "reader": Reader})
    variables = [line.split("=")[0].lstrip("# ") for line in text.splitlines() if "=" in line]
    expected = {name.upper() for cls in (Worker, Reader) for name in cls.model_fields}
    assert sorted(variables) == sorted(expected)
    assert "REDIS_URL=redis://localhost:6379/0" in text.splitlines()
    assert "# PER_MINUTE=300" in text.splitlines()
    assert "# Default: 8002 (worker), 8001 (reader)." in text.splitlines()
    assert "# Read by: worker." in text.splitlines()
    (tmp_path / ".env").write_text(text.replace("API_KEY=", "API_KEY=sk-test"))
    assert load_settings(Worker).api_key.get_secret_value() == "sk-test"
