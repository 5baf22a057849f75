"""Settings from the environment, read once where a process starts.

Each service derives a class from `ServiceSettings`; a field `redis_url` is the variable REDIS_URL. A `.env`
file in the working directory is read too, real variables win over it. Blank counts as not set.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from wearon_service_kit.environment import (
    Refused,
    check_cert_file,
    check_proxy,
    refusals,
    show_cert_file_to_openssl,
)
from wearon_service_kit.origins import parse_base_url, parse_origin
from wearon_service_kit.redis_address import parse_redis_url

_LOOKS_LIKE_QUOTES: Final = "\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"


class _PartlySecret(SecretStr, ABC):
    @abstractmethod
    def parts_to_hide(self) -> tuple[str, ...]:
        """What of it a log must not show, as it is written here and as it is sent."""


class _RedisUrl(_PartlySecret):
    def parts_to_hide(self) -> tuple[str, ...]:
        passwords = parse_redis_url(self.get_secret_value()).secrets
        return (*passwords, *(quote(password, safe="") for password in passwords))


class _ProxyUrl(_PartlySecret):
    def parts_to_hide(self) -> tuple[str, ...]:
        password = urlsplit(self.get_secret_value()).password or ""
        return password, unquote(password)


class _Headers(_PartlySecret):
    """As OpenTelemetry takes them: name=value,name=value, percent-encoded."""

    def parts_to_hide(self) -> tuple[str, ...]:
        values = [header.partition("=")[2].strip() for header in self.get_secret_value().split(",")]
        return (*values, *map(unquote, values))


def _check_redis_url(url: _RedisUrl) -> _RedisUrl:
    parse_redis_url(url.get_secret_value())
    return url


def _check_secret(secret: SecretStr) -> SecretStr:
    """Refuse what cannot be a key: it would only fail later, at the first call."""
    text = secret.get_secret_value()
    if not text:
        raise ValueError("is empty")
    if text[0] in _LOOKS_LIKE_QUOTES or text[-1] in _LOOKS_LIKE_QUOTES:
        raise ValueError(
            "has quotes around it: docker --env-file takes them as part of the value, leave them out"
        )
    if any(character.isspace() for character in text):
        raise ValueError("has a space or a line break in it")
    if not (text.isascii() and text.isprintable()):
        raise ValueError("has a character in it that no key has: copy it again")
    return secret


def _check_listen_address(text: str) -> str:
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address, for example 0.0.0.0 or ::") from None


def _split_commas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    items = tuple(item.strip() for item in value.split(",") if item.strip())
    if value and not items:
        raise ValueError("names nothing: leave it out, or say what")
    return items


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


RedisUrl = Annotated[
    _RedisUrl, AfterValidator(_check_redis_url), Field(examples=["redis://localhost:6379/0"])
]
"""What `redis_address.parse_redis_url` reads; secret, since it may hold a password."""

Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
"""A key or token: printable ASCII without spaces and without quotes around it."""

HttpOrigin = Annotated[str, AfterValidator(parse_origin), Field(examples=["https://example.com"])]
"""`scheme://host[:port]` in its canonical spelling, without a slash at the end."""

HttpUrl = Annotated[str, AfterValidator(parse_base_url), Field(examples=["https://example.com/v1"])]
"""An http(s) URL that paths are appended to, without a slash at the end."""

OriginList = Annotated[tuple[HttpOrigin, ...], NoDecode, BeforeValidator(_split_commas)]
"""Comma-separated origins."""

SecretList = Annotated[tuple[Secret, ...], NoDecode, BeforeValidator(_split_commas)]
"""Comma-separated secrets."""


ListenAddress = Annotated[str, AfterValidator(_check_listen_address)]
"""An IPv4 or IPv6 address to listen on; `::` is every address of both kinds."""


def _check_proxy(url: _ProxyUrl) -> _ProxyUrl:
    return _ProxyUrl(check_proxy(url.get_secret_value()))


ProxyUrl = Annotated[_ProxyUrl, AfterValidator(_check_proxy)]
"""A proxy for HTTP; secret, since it may hold a password."""


class ServiceSettings(BaseSettings):
    """What every service can be told. Subclasses add their own fields, each with a description."""

    refused_variables: ClassVar[Mapping[str, Refused]] = {
        name: Refused("the metrics are of this one process", even_blank=True)
        for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
    }
    """Variables by which a library would change what the service does, unseen by these settings."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        BeforeValidator(_upper),
        Field(description="Least severe lines to log: DEBUG, INFO, WARNING or ERROR."),
    ] = "INFO"
    log_format: Annotated[
        Literal["json", "console"], Field(description="json for machines, console for people.")
    ] = "json"
    ssl_cert_file: Annotated[
        str | None,
        AfterValidator(check_cert_file),
        Field(description="File of certificate authorities (PEM) to trust besides the public ones."),
    ] = None

    otel_exporter_otlp_endpoint: Annotated[
        HttpUrl | None,
        Field(
            description="Address of an OpenTelemetry collector (OTLP over HTTP); switches traces on. The "
            "SDK's other OTEL_ variables count too, where they are variables of the process.",
            examples=["http://collector:4318"],
        ),
    ] = None
    otel_exporter_otlp_traces_endpoint: Annotated[
        HttpUrl | None,
        Field(description="The same as a whole URL for traces alone, with its /v1/traces."),
    ] = None
    otel_exporter_otlp_headers: Annotated[
        _Headers | None,
        Field(description="What to send along, such as the collector's key, as the SDK reads it."),
    ] = None
    otel_exporter_otlp_protocol: Annotated[
        Literal["http/protobuf"], Field(description="The one protocol that traces are sent by.")
    ] = "http/protobuf"
    otel_traces_exporter: Annotated[
        Literal["otlp", "none"], Field(description="none: no traces, whatever the address.")
    ] = "otlp"
    otel_sdk_disabled: Annotated[bool, Field(description="true: no traces, whatever the address.")] = False

    @property
    def traced(self) -> bool:
        """Whether spans are made and sent."""
        named = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return bool(named) and self.otel_traces_exporter == "otlp" and not self.otel_sdk_disabled

    @model_validator(mode="before")
    @classmethod
    def _strip(cls, values: Any) -> Any:
        """Spaces and newlines around a value (secrets mounted from files end in one) are not part of it."""
        if not isinstance(values, dict):
            return values
        stripped = {
            name: value.strip() if isinstance(value, str) else value for name, value in values.items()
        }
        return {name: value for name, value in stripped.items() if value != ""}

    def secret_values(self) -> tuple[str, ...]:
        """Every secret among the settings, for `configure_logging` to hide; of a URL, only its password."""
        found: list[SecretStr] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            items = value if isinstance(value, tuple) else (value,)
            found += [item for item in items if isinstance(item, SecretStr)]
        return tuple(part for secret in found for part in _parts_to_hide(secret))


def _parts_to_hide(secret: SecretStr) -> tuple[str, ...]:
    return secret.parts_to_hide() if isinstance(secret, _PartlySecret) else (secret.get_secret_value(),)


Settings = TypeVar("Settings", bound=ServiceSettings)


def load_settings(cls: type[Settings]) -> Settings:
    """Read `cls` from the environment and `.env`.

    When anything is missing or malformed, prints one line to stderr that names every offending variable, what
    is wrong with it and what to set (never a value that was given), and raises SystemExit(2).
    """
    problems = refusals(cls.refused_variables, os.environ)
    try:
        settings = cls()
        if not problems:
            show_cert_file_to_openssl(settings.ssl_cert_file)
            _show_to_opentelemetry(settings, os.environ)
            return settings
    except ValidationError as error:
        problems += [_problem(cls, detail) for detail in error.errors(include_input=False, include_url=False)]
    except SettingsError as error:
        problems += [str(error)]
    except (OSError, UnicodeDecodeError) as error:
        problems += [f"the file .env cannot be read ({type(error).__name__})"]
    one_line = "; ".join(dict.fromkeys(" ".join(problem.split()) for problem in problems))
    print(f"Configuration error: {one_line}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


def _show_to_opentelemetry(settings: ServiceSettings, environment: MutableMapping[str, str]) -> None:
    """Its SDK reads the variables itself, but not from a .env file."""
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if name.startswith("otel_") and value is not None:
            environment[name.upper()] = (
                value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            )


def _problem(cls: type[ServiceSettings], detail: ErrorDetails) -> str:
    reason = str(detail.get("ctx", {}).get("error", detail["msg"]))
    if not detail["loc"]:  # a check across fields names its variables itself
        return reason
    name = str(detail["loc"][0])
    field = cls.model_fields.get(name)
    example = f", for example {field.examples[0]}" if field and field.examples else ""
    if detail["type"] == "missing":
        purpose = f" ({field.description.rstrip('.')})" if field and field.description else ""
        return f"{name.upper()} is not set{example}{purpose}"
    if detail["type"] != "value_error":
        reason = "is wrong: " + reason[:1].lower() + reason[1:]
    entry = (
        f" (entry {detail['loc'][1] + 1})"
        if len(detail["loc"]) > 1 and isinstance(detail["loc"][1], int)
        else ""
    )
    return f"{name.upper()}{entry} {reason}"


def env_example(services: Mapping[str, type[ServiceSettings]]) -> str:
    """The text of `.env.example`: every variable of every service once, what it is for, who reads it.

    Required ones stand uncommented with an example where there is one; the others as comments with their
    default.
    `services` maps the name to show to the settings class.
    """
    users: dict[str, dict[str, FieldInfo]] = {}
    for service, cls in services.items():
        for name, field in cls.model_fields.items():
            users.setdefault(name.upper(), {})[service] = field
    required_first = sorted(users.items(), key=lambda item: not _required_by(item[1]))
    blocks = [_example_block(variable, fields, len(services)) for variable, fields in required_first]
    head = "# Copy to .env and fill in. Generated from the services' settings: edit those, not this file.\n"
    return "\n".join([head, *blocks])


def _required_by(fields: Mapping[str, FieldInfo]) -> list[str]:
    return [service for service, field in fields.items() if field.is_required()]


def _example_block(variable: str, fields: Mapping[str, FieldInfo], service_count: int) -> str:
    first = next(iter(fields.values()))
    lines = [f"# {first.description}"] if first.description else []
    lines.append(f"# Read by: {', '.join(fields) if len(fields) < service_count else 'every service'}.")
    required = _required_by(fields)
    if required:
        if len(required) < len(fields):
            lines.append(f"# Required by: {', '.join(required)}.")
        example = next((str(field.examples[0]) for field in fields.values() if field.examples), "")
        lines.append(f"{variable}={example}")
        return "\n".join([*lines, ""])
    defaults = {service: _render_default(field.default) for service, field in fields.items()}
    if len(set(defaults.values())) > 1:
        lines.append(
            "# Default: " + ", ".join(f"{value} ({service})" for service, value in defaults.items()) + "."
        )
    lines.append(f"# {variable}={next(iter(defaults.values()))}")
    return "\n".join([*lines, ""])


def _render_default(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value)
