"""Why a call of an image provider brought no picture, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from wearon_contracts.errors import ErrorCode


class Refusal(StrEnum):
    """Why a call brought no usable picture; also the outcome that the metrics count."""

    PICTURE = "picture"
    PROMPT = "prompt"
    MODERATION = "moderation"
    RATE_LIMIT = "rate_limit"
    SERVER_ERROR = "server_error"
    CONNECTION = "connection"
    BAD_ANSWER = "bad_answer"
    # Ours, and the same for every job:
    NO_MONEY = "no_money"
    KEY_REFUSED = "key_refused"
    FORBIDDEN = "forbidden"
    MODEL_GONE = "model_gone"
    PARAMETER_REFUSED = "parameter_refused"
    UNKNOWN = "unknown"
    # Ours, but of this one job:
    REQUEST_REFUSED = "request_refused"


class Alert(StrEnum):
    """How a person learns of a refusal: woken at once, by a ticket when many come, or not at all."""

    PAGE = "page"
    TICKET = "ticket"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows from a refusal.

    `code`: what the session fails with. `call_again`: the same call may simply be made again.
    `same_for_every_job`: counts towards the breaker that stops all replicas.
    `account_works`: shows that key, account and model are in order, so that the breaker closes.
    """

    code: ErrorCode
    alert: Alert
    call_again: bool = False
    same_for_every_job: bool = False
    account_works: bool = False


_E = ErrorCode
CONSEQUENCES: Final[dict[Refusal, Consequence]] = {
    Refusal.PICTURE: Consequence(_E.PROVIDER_REFUSED, Alert.NONE),
    Refusal.PROMPT: Consequence(_E.PROMPT_REFUSED, Alert.NONE),
    Refusal.MODERATION: Consequence(_E.MODERATION_BLOCKED, Alert.NONE, account_works=True),
    Refusal.RATE_LIMIT: Consequence(_E.RATE_LIMITED, Alert.TICKET),
    Refusal.SERVER_ERROR: Consequence(_E.PROVIDER_UNAVAILABLE, Alert.TICKET, call_again=True),
    Refusal.CONNECTION: Consequence(_E.PROVIDER_UNAVAILABLE, Alert.TICKET, call_again=True),
    Refusal.BAD_ANSWER: Consequence(_E.PROVIDER_BAD_ANSWER, Alert.TICKET, account_works=True),
    Refusal.NO_MONEY: Consequence(_E.QUOTA_EXHAUSTED, Alert.PAGE, same_for_every_job=True),
    Refusal.KEY_REFUSED: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.FORBIDDEN: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.MODEL_GONE: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.PARAMETER_REFUSED: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.UNKNOWN: Consequence(_E.INTERNAL_ERROR, Alert.PAGE, same_for_every_job=True),
    Refusal.REQUEST_REFUSED: Consequence(_E.INTERNAL_ERROR, Alert.TICKET),
}

PAUSE_REASONS: Final = tuple(refusal for refusal, c in CONSEQUENCES.items() if c.same_for_every_job)
"""What may open the breaker."""
