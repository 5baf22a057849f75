"""A second model for the time when the provider does not let us use the first one any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from wearon_generator.provider import Generated, ModelStatus, Provider, ProviderError
from wearon_generator.refusals import Refusal

log = structlog.get_logger()

SWITCHES: Final = frozenset({Refusal.MODEL_GONE, Refusal.FORBIDDEN})
"""Refusals of the model itself. No picture was begun, so nothing was billed."""


class ProviderWithFallback:
    """The main model until the provider refuses it; from then on the fallback, if there is one."""

    def __init__(self, main: Provider, fallback: Provider | None) -> None:
        self.main = main
        self.fallback = fallback
        self.reason: Refusal | None = None
        """Why the fallback makes the pictures; None while the main model does."""

    @property
    def model(self) -> str:
        """The model that makes the pictures now."""
        return self.fallback.model if self.fallback and self.reason else self.main.model

    def use_fallback(self, reason: Refusal) -> bool:
        """From now on; returns whether there is one."""
        if self.fallback is None:
            return False
        if self.reason is None:
            log.error(
                "fallback_model_in_use",
                reason=reason.value,
                refused=self.main.model,
                model=self.fallback.model,
            )
        self.reason = reason
        return True

    def use_main(self) -> None:
        """From now on."""
        if self.reason is not None:
            log.warning("main_model_in_use_again", model=self.main.model)
        self.reason = None

    async def edit(self, pictures: Sequence[bytes], prompt: str, end_user: str) -> Generated:
        """See `Provider`. Where the main model is refused, the fallback is called at once."""
        if self.reason is None:
            try:
                return await self.main.edit(pictures, prompt, end_user)
            except ProviderError as error:
                if error.refusal not in SWITCHES or not self.use_fallback(error.refusal):
                    raise
        if self.fallback is None:
            return await self.main.edit(pictures, prompt, end_user)
        return await self.fallback.edit(pictures, prompt, end_user)

    async def look_up(self) -> ModelStatus:
        """See `Provider`: of the main model."""
        return await self.main.look_up()
