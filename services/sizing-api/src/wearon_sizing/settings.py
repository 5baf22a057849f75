"""What the sizing API can be told. It needs nothing and never holds a Supabase or OpenAI key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from wearon_service_kit.health import ANY_ADDRESS
from wearon_service_kit.settings import (
    HttpOrigin,
    ListenAddress,
    OriginList,
    RedisUrl,
    SecretList,
    ServiceSettings,
)


class SizingSettings(ServiceSettings):
    """Environment of `python -m wearon_sizing`."""

    host: Annotated[ListenAddress, Field(description="Address to listen on; :: takes IPv6 and IPv4.")] = (
        ANY_ADDRESS
    )
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    redis_url: Annotated[
        RedisUrl | None,
        Field(description="Redis, only to report it in /health; without it the status there is degraded."),
    ] = None
    supabase_url: Annotated[
        HttpOrigin | None,
        Field(description="Supabase project; photos may be fetched from it although private."),
    ] = None
    supabase_public_url: Annotated[
        HttpOrigin | None,
        Field(description="The same Supabase as browsers and the producer see it, if that differs."),
    ] = None
    image_fetch_trusted_origins: Annotated[
        OriginList,
        Field(description="Comma-separated scheme://host:port that may be fetched although private."),
    ] = ()
    mediapipe_model_path: Annotated[
        Path, Field(description="The pose model, as services/sizing-api/fetch_model.py puts it there.")
    ] = Path(".local/models/pose_landmarker_full.task")
    sizing_api_keys: Annotated[
        SecretList, Field(description="Comma-separated keys, one of which a request must bring; none: open.")
    ] = ()
    sizing_cors_origins: Annotated[
        OriginList, Field(description="Comma-separated origins whose pages may call the API from a browser.")
    ] = ()
    sizing_workers: Annotated[
        int, Field(ge=0, le=64, description="Pose landmarkers working at once; 0 is one per core.")
    ] = 0
    sizing_queue: Annotated[
        int, Field(ge=0, le=1000, description="Photos that may wait for a landmarker before 503 is answered.")
    ] = 10

    @property
    def workers(self) -> int:
        return self.sizing_workers or len(os.sched_getaffinity(0))

    @property
    def trusted_origins(self) -> tuple[str, ...]:
        own = (self.supabase_url,) if self.supabase_url else ()
        return (*self.image_fetch_trusted_origins, *own)

    @property
    def rewrite_origins(self) -> dict[str, str]:
        """Where photos are fetched from that are written with the public address of Supabase."""
        if self.supabase_url and self.supabase_public_url:
            return {self.supabase_public_url: self.supabase_url}
        return {}
