"""The settings of the consumer. It never holds a Supabase or OpenAI key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wearon_contracts.place import DEFAULT_STORE_SHARE
from wearon_service_kit.health import ANY_ADDRESS
from wearon_service_kit.settings import ListenAddress, RedisUrl, ServiceSettings


class ConsumerSettings(ServiceSettings):
    """Environment of `python -m wearon_consumer`."""

    redis_url: Annotated[
        RedisUrl, Field(description="Redis with the task list, which is also Celery's broker.")
    ]
    health_host: Annotated[
        ListenAddress, Field(description="Address for /live, /ready and /metrics; :: takes IPv6 and IPv4.")
    ] = ANY_ADDRESS
    health_port: Annotated[
        int, Field(ge=0, le=65535, description="Port of /live, /ready and /metrics; 0 takes a free one.")
    ] = 8001
    max_invalid_in_a_row: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="So many invalid elements without a valid one between them stop all consumers until "
            "`wearonctl intake resume`: a deployment is wrong, and each costs a shopper a try-on.",
        ),
    ] = 500
    max_dead_letter_mb: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Dead letters of so many MiB stop all consumers until some are dropped and "
            "`wearonctl intake resume`.",
        ),
    ] = 64
    store_share: Annotated[
        int, Field(ge=1, le=1000, description="How many try-ons of a store start for one of a waiting user.")
    ] = DEFAULT_STORE_SHARE
