"""The generator's settings, all from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from wearon_contracts.results import DEFAULT_BUCKET, SIGNED_URL_SECONDS
from wearon_generator.models import DEFAULT_MODEL, find_model
from wearon_service_kit.environment import Proxies, Refused
from wearon_service_kit.health import ANY_ADDRESS
from wearon_service_kit.settings import (
    HttpOrigin,
    HttpUrl,
    ListenAddress,
    OriginList,
    ProxyUrl,
    RedisUrl,
    Secret,
    ServiceSettings,
)

TEN_YEARS: Final = timedelta(days=3650)  # what the database and Storage can reckon with, by far

OpenAIId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=200)]
"""It becomes an HTTP header."""

BucketName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$", max_length=100)]
"""It becomes a part of paths."""

RetentionHours = Annotated[int, Field(ge=1, le=TEN_YEARS.days * 24)]


class ProxySettings(ServiceSettings):
    """How Supabase and the image provider are reached."""

    http_proxy: Annotated[
        ProxyUrl | None, Field(description="Proxy for http:// calls of Supabase and OpenAI.")
    ] = None
    https_proxy: Annotated[
        ProxyUrl | None, Field(description="Proxy for https:// calls of Supabase and OpenAI.")
    ] = None
    all_proxy: Annotated[
        ProxyUrl | None, Field(description="Proxy for both where they have none of their own.")
    ] = None
    no_proxy: Annotated[str, Field(description="Comma-separated hosts that are called without a proxy.")] = ""

    @property
    def proxies(self) -> Proxies:
        """Between the generator, Supabase and the provider."""
        http, https, every = (
            url.get_secret_value() if url else None
            for url in (self.http_proxy, self.https_proxy, self.all_proxy)
        )
        return Proxies(http, https, every, self.no_proxy)


class OperatorSettings(ProxySettings):
    """What `wearonctl` and the generators have to agree about."""

    redis_url: Annotated[RedisUrl, Field(description="Redis that the consumer and all generators share.")]
    supabase_url: Annotated[HttpOrigin, Field(description="Supabase project, as the generator reaches it.")]
    supabase_service_role_key: Annotated[
        Secret, Field(description="Service-role key: full access to database and storage.")
    ]
    storage_bucket: Annotated[BucketName, Field(description="Bucket for results.")] = DEFAULT_BUCKET
    stuck_after_seconds: Annotated[
        int,
        Field(ge=1, le=604800, description="When a session that nothing will ever run counts as stuck."),
    ] = 300
    result_retention_hours: Annotated[
        RetentionHours | None, Field(description="Hours after which a result is deleted; without it never.")
    ] = None
    input_retention_hours: Annotated[
        RetentionHours | None,
        Field(description="The same for input pictures in our bucket, from their last try-on on."),
    ] = None
    webhook_trusted_origins: Annotated[
        OriginList,
        Field(description="Comma-separated scheme://host:port of webhooks that may be private or http."),
    ] = ()


class GeneratorSettings(OperatorSettings):
    """Environment of `python -m wearon_generator`."""

    refused_variables: ClassVar[Mapping[str, Refused]] = {
        **ServiceSettings.refused_variables,
        **{
            name: Refused("the broker is REDIS_URL")
            for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
        },
        **{
            name: Refused("Celery is configured by this service alone")
            for name in ("CELERY_RESULT_BACKEND", "CELERY_LOADER", "CELERY_CONFIG_MODULE")
        },
        **{
            name: Refused("calls of OpenAI are configured by the other OPENAI variables alone")
            for name in ("OPENAI_CUSTOM_HEADERS", "OPENAI_ADMIN_KEY", "OPENAI_LOG")
        },
    }

    supabase_public_url: Annotated[
        HttpOrigin | None,
        Field(description="The same Supabase as browsers and the producer see it, if that differs."),
    ] = None
    openai_api_key: Annotated[Secret, Field(description="Key for the image model.")]
    openai_base_url: Annotated[
        HttpUrl | None, Field(description="Another server that speaks OpenAI's API; with its /v1.")
    ] = None
    openai_org_id: Annotated[
        OpenAIId | None, Field(description="Organisation to bill, for a key that belongs to several.")
    ] = None
    openai_project_id: Annotated[
        OpenAIId | None, Field(description="Project to bill, for a key that belongs to several.")
    ] = None
    openai_model: Annotated[str, Field(min_length=1, description="Image model.")] = DEFAULT_MODEL
    openai_fallback_model: Annotated[
        str | None, Field(description="Image model for when OpenAI refuses the other as gone or forbidden.")
    ] = None
    openai_quality: Annotated[
        str | None, Field(description="Quality of the pictures; without it the model's default.")
    ] = None
    openai_size: Annotated[
        str | None, Field(description="WIDTHxHEIGHT of the pictures; without it the model's default.")
    ] = None
    openai_complexity: Annotated[
        Literal["low", "medium", "high"] | None,
        Field(description="How long the model may plan, if it takes that; without it OpenAI's default."),
    ] = None
    openai_max_retries: Annotated[
        int, Field(ge=1, le=10, description="Calls per try-on on errors of the provider, the first included.")
    ] = 3
    openai_timeout_seconds: Annotated[
        float, Field(ge=1, le=600, description="Longest wait for one call.")
    ] = 180
    signed_url_ttl_seconds: Annotated[
        int,
        Field(
            ge=60, le=TEN_YEARS // timedelta(seconds=1), description="How long the link to a result works."
        ),
    ] = SIGNED_URL_SECONDS
    generations_per_minute: Annotated[
        int, Field(ge=1, le=60000, description="Limit over all replicas together.")
    ] = 300
    generator_concurrency: Annotated[
        int, Field(ge=1, le=1024, description="Jobs in flight in one replica.")
    ] = 128
    memory_limit_mb: Annotated[
        int | None,
        Field(
            ge=512,
            le=1048576,
            description="Memory of one replica in MiB; the container's own limit where it is not set.",
        ),
    ] = None
    image_fetch_trusted_origins: Annotated[
        OriginList,
        Field(description="Comma-separated scheme://host:port that may be fetched although private."),
    ] = ()
    health_host: Annotated[
        ListenAddress, Field(description="Address for /live, /ready and /metrics; :: takes IPv6 and IPv4.")
    ] = ANY_ADDRESS
    health_port: Annotated[int, Field(ge=0, le=65535, description="/live, /ready, /metrics.")] = 8002

    @model_validator(mode="after")
    def _fits_the_model(self) -> Self:
        """What the model would refuse in every call is refused at start."""
        objections = find_model(self.openai_model).objections(self.openai_quality, self.openai_size)
        if objections:
            raise ValueError(
                "; ".join(
                    f"OPENAI_{field.upper()} is wrong: {self.openai_model} takes {instead}"
                    for field, instead in objections.items()
                )
            )
        return self
