"""Every family of the provider's errors: status × code × type → our code, sentence, refund, breaker, page."""

from __future__ import annotations

from typing import Final

import pytest

from wearon_contracts.errors import ErrorCode as E
from wearon_contracts.errors import Family, sentence
from wearon_generator.openai_errors import classify, picture_in_question
from wearon_generator.provider import ProviderError
from wearon_generator.refusals import CONSEQUENCES, Alert, Refusal

TABLE: Final = [
    # status, code, type, param → refusal
    (400, "moderation_blocked", "image_generation_user_error", None, Refusal.MODERATION),
    (400, "content_policy_violation", "invalid_request_error", None, Refusal.MODERATION),
    (400, "invalid_image", "invalid_request_error", "image", Refusal.PICTURE),
    (400, "image_parse_error", "invalid_request_error", None, Refusal.PICTURE),
    (400, "invalid_image_file", "invalid_request_error", "image[1]", Refusal.PICTURE),
    (422, "image_too_small", None, None, Refusal.PICTURE),
    (400, "invalid_value", None, "image[0]", Refusal.PICTURE),
    (400, "string_above_max_length", "invalid_request_error", "prompt", Refusal.PROMPT),
    (400, "string_above_max_length", "invalid_request_error", None, Refusal.PROMPT),
    (400, "string_above_max_length", "invalid_request_error", "safety_identifier", Refusal.PARAMETER_REFUSED),
    (400, "invalid_prompt", None, None, Refusal.PROMPT),
    (429, "rate_limit_exceeded", "requests", None, Refusal.RATE_LIMIT),
    (429, "rate_limit_exceeded", "tokens", None, Refusal.RATE_LIMIT),
    (429, None, None, None, Refusal.RATE_LIMIT),
    (429, None, "requests", None, Refusal.RATE_LIMIT),
    (429, "insufficient_quota", "insufficient_quota", None, Refusal.NO_MONEY),
    (429, None, "insufficient_quota", None, Refusal.NO_MONEY),
    (429, "billing_not_active", "billing_not_active", None, Refusal.NO_MONEY),
    (400, "billing_hard_limit_reached", "invalid_request_error", None, Refusal.NO_MONEY),
    (400, "billing_hard_limit_reached", "image_generation_user_error", None, Refusal.NO_MONEY),
    # What is a code elsewhere may stand as the type alone.
    (400, None, "moderation_blocked", None, Refusal.MODERATION),
    (400, None, "content_policy_violation", "prompt", Refusal.MODERATION),
    (400, "something_new", "rate_limit_exceeded", None, Refusal.RATE_LIMIT),
    (402, None, None, None, Refusal.NO_MONEY),
    (401, "invalid_api_key", "invalid_request_error", None, Refusal.KEY_REFUSED),
    (401, None, None, None, Refusal.KEY_REFUSED),
    (401, "something_new", "something_new", None, Refusal.KEY_REFUSED),
    (403, None, "invalid_request_error", None, Refusal.FORBIDDEN),
    (403, "unsupported_country_region_territory", "request_forbidden", None, Refusal.FORBIDDEN),
    (404, "model_not_found", "invalid_request_error", "model", Refusal.MODEL_GONE),
    (400, "model_not_found", None, None, Refusal.MODEL_GONE),
    (404, None, None, None, Refusal.UNKNOWN),
    (400, "unknown_parameter", "invalid_request_error", "complexity", Refusal.PARAMETER_REFUSED),
    (400, "invalid_value", "invalid_request_error", "size", Refusal.PARAMETER_REFUSED),
    (400, "missing_required_parameter", "invalid_request_error", "model", Refusal.PARAMETER_REFUSED),
    (400, None, "invalid_request_error", None, Refusal.UNKNOWN),
    (400, "something_new", "something_new", None, Refusal.UNKNOWN),
    (418, None, None, None, Refusal.UNKNOWN),
    (400, "something_new", None, "prompt", Refusal.REQUEST_REFUSED),
    (400, "something_new", None, "image[2]", Refusal.REQUEST_REFUSED),
    (400, None, "image_generation_user_error", None, Refusal.REQUEST_REFUSED),
    (413, None, None, None, Refusal.REQUEST_REFUSED),
    (408, None, None, None, Refusal.SERVER_ERROR),
    (409, None, None, None, Refusal.SERVER_ERROR),
    *((status, None, "server_error", None, Refusal.SERVER_ERROR) for status in (500, 502, 503, 504)),
    *((status, None, None, None, Refusal.SERVER_ERROR) for status in (*range(520, 527), 529, 599)),
    (503, "server_error", "server_error", None, Refusal.SERVER_ERROR),
    # The code says more than the status, and the type more than the status, too.
    (500, "insufficient_quota", None, None, Refusal.NO_MONEY),
    (503, None, "insufficient_quota", None, Refusal.NO_MONEY),
]


@pytest.mark.parametrize(("status", "code", "kind", "param", "refusal"), TABLE)
def test_code_then_type_then_status_decide(
    status: int, code: str | None, kind: str | None, param: str | None, refusal: Refusal
) -> None:
    assert classify(status, code, kind, param) is refusal


def test_table_has_every_refusal_that_an_error_answer_can_be() -> None:
    assert {row[-1] for row in TABLE} == set(Refusal) - {Refusal.CONNECTION, Refusal.BAD_ANSWER}


# refusal: code, family, words of the sentence, calls again, opens the breaker, closes it, alert
WHAT_FOLLOWS: Final = {
    Refusal.PICTURE: (E.PROVIDER_REFUSED, Family.PICTURE, "different images", 0, 0, 0, Alert.NONE),
    Refusal.PROMPT: (E.PROMPT_REFUSED, Family.PROMPT, "wording", 0, 0, 0, Alert.NONE),
    Refusal.MODERATION: (E.MODERATION_BLOCKED, Family.MODERATION, "safety filter", 0, 0, 1, Alert.NONE),
    Refusal.RATE_LIMIT: (E.RATE_LIMITED, Family.RATE_LIMIT, "Too many", 0, 0, 0, Alert.TICKET),
    Refusal.SERVER_ERROR: (E.PROVIDER_UNAVAILABLE, Family.PASSING, "did not answer", 1, 0, 0, Alert.TICKET),
    Refusal.CONNECTION: (E.PROVIDER_UNAVAILABLE, Family.PASSING, "did not answer", 1, 0, 0, Alert.TICKET),
    Refusal.BAD_ANSWER: (E.PROVIDER_BAD_ANSWER, Family.PASSING, "no usable picture", 0, 0, 1, Alert.TICKET),
    Refusal.NO_MONEY: (E.QUOTA_EXHAUSTED, Family.OURS, "not available", 0, 1, 0, Alert.PAGE),
    Refusal.KEY_REFUSED: (E.INTERNAL_ERROR, Family.OURS, "our side", 0, 1, 0, Alert.PAGE),
    Refusal.FORBIDDEN: (E.INTERNAL_ERROR, Family.OURS, "our side", 0, 1, 0, Alert.PAGE),
    Refusal.MODEL_GONE: (E.INTERNAL_ERROR, Family.OURS, "our side", 0, 1, 0, Alert.PAGE),
    Refusal.PARAMETER_REFUSED: (E.INTERNAL_ERROR, Family.OURS, "our side", 0, 1, 0, Alert.PAGE),
    Refusal.UNKNOWN: (E.INTERNAL_ERROR, Family.OURS, "our side", 0, 1, 0, Alert.PAGE),
    Refusal.REQUEST_REFUSED: (E.INTERNAL_ERROR, Family.OURS, "our side", 0, 0, 0, Alert.TICKET),
}


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_has_the_consequence_that_the_table_says(refusal: Refusal) -> None:
    code, family, words, again, opens, closes, alert = WHAT_FOLLOWS[refusal]
    error = ProviderError(refusal, "")
    follows = CONSEQUENCES[refusal]
    assert (error.code, error.family) == (code, family)
    assert words in sentence(code, "pictures")
    assert (follows.call_again, follows.same_for_every_job, follows.account_works) == (again, opens, closes)
    assert follows.alert is alert
    # Whatever pages is no shopper's doing, and the other way round.
    assert (alert is Alert.PAGE) == follows.same_for_every_job


@pytest.mark.parametrize(
    ("param", "message", "pictures", "index"),
    [
        ("image[1]", "", 3, 1),
        ("image[0]", "model.jpg and image_1.jpg", 3, 0),
        ("image[7]", "", 3, None),
        ("image[]", "Invalid file 'image_2.jpg'.", 3, 2),
        (None, "model.jpg shows nothing", 2, 0),
        (None, "model.jpg or image_1.jpg", 2, None),
        (None, "image_9.jpg", 2, None),
        (None, "Your request was rejected", 2, None),
        (None, "Your request was rejected", 1, 0),
        ("size", "", 2, None),
    ],
)
def test_the_picture_in_question_is_named_where_the_answer_tells(
    param: str | None, message: str, pictures: int, index: int | None
) -> None:
    assert picture_in_question(param, message, pictures) == index
