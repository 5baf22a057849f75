"""What an error answer of OpenAI's API means: by its code, then its type, then its status."""

from __future__ import annotations

import re
from typing import Final

from wearon_generator.prompts import file_names
from wearon_generator.refusals import Refusal

_R = Refusal

# The codes about pictures and prompts are those of `openai.types.responses.ResponseError` and of the edits
# endpoint itself.
_BY_CODE: Final[dict[str, Refusal]] = {
    "moderation_blocked": _R.MODERATION,
    "content_policy_violation": _R.MODERATION,
    "image_content_policy_violation": _R.MODERATION,
    "bio_policy": _R.MODERATION,
    "rate_limit_exceeded": _R.RATE_LIMIT,
    "insufficient_quota": _R.NO_MONEY,
    "billing_not_active": _R.NO_MONEY,
    "billing_hard_limit_reached": _R.NO_MONEY,
    "invalid_api_key": _R.KEY_REFUSED,
    "account_deactivated": _R.KEY_REFUSED,
    "invalid_organization": _R.FORBIDDEN,
    "organization_not_verified": _R.FORBIDDEN,
    "unsupported_country_region_territory": _R.FORBIDDEN,
    "model_not_found": _R.MODEL_GONE,
    "missing_scope": _R.FORBIDDEN,
    "unknown_parameter": _R.PARAMETER_REFUSED,
    "unsupported_parameter": _R.PARAMETER_REFUSED,
    "unsupported_value": _R.PARAMETER_REFUSED,
    "invalid_prompt": _R.PROMPT,
    "server_error": _R.SERVER_ERROR,
    **dict.fromkeys(
        (
            "invalid_image",
            "invalid_image_file",
            "invalid_image_format",
            "invalid_base64_image",
            "image_too_large",
            "image_too_small",
            "image_parse_error",
            "invalid_image_mode",
            "image_file_too_large",
            "unsupported_image_media_type",
            "unsupported_file_mimetype",
            "empty_image_file",
            "invalid_image_url",
            "image_file_not_found",
            "failed_to_download_image",
        ),
        _R.PICTURE,
    ),
}
# These say what is wrong, and their `param` with what.
_ABOUT_A_VALUE: Final = frozenset(
    {"invalid_value", "invalid_type", "missing_required_parameter", "string_above_max_length"}
)
_BY_TYPE: Final[dict[str, Refusal]] = {
    # The user's doing, but neither code says of which kind: no sign of trouble with the account.
    "image_generation_user_error": _R.REQUEST_REFUSED,
}
_BY_STATUS: Final[dict[int, Refusal]] = {
    401: _R.KEY_REFUSED,
    402: _R.NO_MONEY,
    403: _R.FORBIDDEN,
    408: _R.SERVER_ERROR,
    409: _R.SERVER_ERROR,
    413: _R.REQUEST_REFUSED,
    429: _R.RATE_LIMIT,
}

_IMAGE_PARAM: Final = re.compile(r"(?:image|images)(?:\[\]|\[?(\d+)\]?)?(?:\..*)?")
_FILE_NAME: Final = re.compile(r"\b(?:model|image_\d+)\.jpg\b")


def classify(status: int, code: str | None, kind: str | None, param: str | None) -> Refusal:
    """The refusal behind an answer of `status` (400 or above) with this `code`, type (`kind`) and `param`."""
    found = _BY_CODE.get(code or "")
    if found is None and code in _ABOUT_A_VALUE:
        found = _about_a_value(code, param)
    # What is known as a code may also stand as the type alone.
    found = found or _BY_CODE.get(kind or "") or _BY_TYPE.get(kind or "") or _BY_STATUS.get(status)
    if found is None and status >= 500:
        found = _R.SERVER_ERROR
    if found is None and (param == "prompt" or (param and _IMAGE_PARAM.fullmatch(param))):
        # About this one job, in words that are not known here.
        found = _R.REQUEST_REFUSED
    return found or _R.UNKNOWN


def _about_a_value(code: str | None, param: str | None) -> Refusal:
    if param == "prompt" or (param is None and code == "string_above_max_length"):
        return _R.PROMPT
    if param and _IMAGE_PARAM.fullmatch(param):
        return _R.PICTURE
    # Of a parameter that comes from our settings, such as the size.
    return _R.PARAMETER_REFUSED


def picture_in_question(param: str | None, message: str, pictures: int) -> int | None:
    """Index of the picture that an error is about; None where it does not tell.

    It tells by a parameter such as `image[1]`, or by the name of exactly one file in its message.
    """
    match = _IMAGE_PARAM.fullmatch(param) if param else None
    if match and match[1] and int(match[1]) < pictures:
        return int(match[1])
    names = file_names(pictures)
    named = {name for name in _FILE_NAME.findall(message) if name in names}
    if len(named) == 1:
        return names.index(named.pop())
    return 0 if pictures == 1 else None
