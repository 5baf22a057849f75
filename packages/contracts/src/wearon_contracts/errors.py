"""Every error a person can meet: its code, the sentence they read, and whether trying again can help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ErrorCode(StrEnum):
    """Stable codes; the sentence that goes with one may be reworded, the code may not."""

    # The task and its session
    INVALID_TASK = "invalid_task"
    SESSION_NOT_FOUND = "session_not_found"
    STUCK = "stuck"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    DATABASE_UNAVAILABLE = "database_unavailable"
    RESULT_NOT_STORED = "result_not_stored"
    INTERNAL_ERROR = "internal_error"

    # The image provider
    MODERATION_BLOCKED = "moderation_blocked"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "insufficient_quota"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_REFUSED = "provider_refused"
    PROVIDER_BAD_ANSWER = "provider_bad_answer"

    # An input image
    IMAGE_URL_INVALID = "image_url_invalid"
    IMAGE_SCHEME_REFUSED = "image_scheme_refused"
    IMAGE_CREDENTIALS_REFUSED = "image_credentials_refused"
    IMAGE_PORT_REFUSED = "image_port_refused"
    IMAGE_ADDRESS_REFUSED = "image_address_refused"
    IMAGE_HOST_UNKNOWN = "image_host_unknown"
    IMAGE_REDIRECT_REFUSED = "image_redirect_refused"
    IMAGE_HTTP_ERROR = "image_http_error"
    IMAGE_URL_EXPIRED = "image_url_expired"
    IMAGE_UNREACHABLE = "image_unreachable"
    IMAGE_TIMEOUT = "image_timeout"
    IMAGE_TYPE_REFUSED = "image_type_refused"
    IMAGE_TYPE_MISMATCH = "image_type_mismatch"
    IMAGE_ENCODING_REFUSED = "image_encoding_refused"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_MANY_PIXELS = "image_too_many_pixels"
    IMAGE_EMPTY = "image_empty"
    IMAGE_DAMAGED = "image_damaged"

    # A photo for sizing
    NO_PERSON = "no_person"
    SEVERAL_PEOPLE = "several_people"
    HEAD_OUTSIDE_FRAME = "head_outside_frame"
    FEET_OUTSIDE_FRAME = "feet_outside_frame"
    FACING_AWAY = "facing_away"
    TURNED = "turned"
    SEATED_OR_BENT = "seated_or_bent"
    LEANING = "leaning"
    LIMBS_HIDDEN = "limbs_hidden"
    ARMS_COVER_TORSO = "arms_cover_torso"
    ARMS_RAISED = "arms_raised"
    PERSON_TOO_SMALL = "person_too_small"
    TOO_DARK = "too_dark"
    BLURRED = "blurred"
    IMPLAUSIBLE_BODY = "implausible_body"

    # The sizing API as a service
    REQUEST_INVALID = "request_invalid"
    UNAUTHORIZED = "unauthorized"
    MODEL_NOT_LOADED = "model_not_loaded"
    OVERLOADED = "overloaded"
    BUDGET_EXCEEDED = "budget_exceeded"


GENERATION_CODES: Final = tuple(ErrorCode)[: tuple(ErrorCode).index(ErrorCode.NO_PERSON)]
"""What a try-on can fail with; the codes after these are the sizing API's."""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """`sentence` may hold `{image}`, the picture it is about; `retryable`: the same input may work later."""

    sentence: str
    retryable: bool


_E = ErrorCode
_INFO: Final[dict[ErrorCode, ErrorInfo]] = {
    _E.INVALID_TASK: ErrorInfo(
        "This try-on request could not be read. Please start it again from the app.", False
    ),
    _E.SESSION_NOT_FOUND: ErrorInfo("This try-on is not known. Please start it again from the app.", False),
    _E.STUCK: ErrorInfo("This try-on was lost on its way to us. Please try again.", True),
    _E.ATTEMPTS_EXHAUSTED: ErrorInfo(
        "This try-on was started several times and never finished. Please try again later.", True
    ),
    _E.DEADLINE_EXCEEDED: ErrorInfo("This try-on took too long. Please try again.", True),
    _E.DATABASE_UNAVAILABLE: ErrorInfo(
        "Our storage could not be reached while working on this try-on. Please try again later.", True
    ),
    _E.RESULT_NOT_STORED: ErrorInfo("The finished picture could not be saved. Please try again later.", True),
    _E.INTERNAL_ERROR: ErrorInfo("Something went wrong on our side. Please try again.", True),
    _E.MODERATION_BLOCKED: ErrorInfo(
        "The safety filter flagged one of your images. Please try again with different images.", False
    ),
    _E.RATE_LIMITED: ErrorInfo("Too many try-ons are being made just now. Please try again shortly.", True),
    _E.QUOTA_EXHAUSTED: ErrorInfo("Try-ons are not available just now. Please try again later.", True),
    _E.PROVIDER_UNAVAILABLE: ErrorInfo(
        "The image service did not answer. Please try again in a few minutes.", True
    ),
    _E.PROVIDER_REFUSED: ErrorInfo(
        "The image service refused this try-on. Please try again with different images.", False
    ),
    _E.PROVIDER_BAD_ANSWER: ErrorInfo(
        "The image service sent back no usable picture. Please try again.", True
    ),
    _E.IMAGE_URL_INVALID: ErrorInfo("The address of the {image} is not valid. Please add it again.", False),
    _E.IMAGE_SCHEME_REFUSED: ErrorInfo(
        "The address of the {image} must begin with https:// or http://.", False
    ),
    _E.IMAGE_CREDENTIALS_REFUSED: ErrorInfo(
        "The address of the {image} must not contain a user name or password.", False
    ),
    _E.IMAGE_PORT_REFUSED: ErrorInfo("The address of the {image} uses a port that is not allowed.", False),
    _E.IMAGE_ADDRESS_REFUSED: ErrorInfo("The {image} is not on a public web address.", False),
    _E.IMAGE_HOST_UNKNOWN: ErrorInfo("The web site of the {image} could not be found.", True),
    _E.IMAGE_REDIRECT_REFUSED: ErrorInfo(
        "The address of the {image} leads on to another one. Please use the final address.", False
    ),
    _E.IMAGE_HTTP_ERROR: ErrorInfo("The {image} could not be found at its address.", False),
    _E.IMAGE_URL_EXPIRED: ErrorInfo("The link to the {image} has expired. Please add it again.", False),
    _E.IMAGE_UNREACHABLE: ErrorInfo(
        "The web site of the {image} did not answer. Please try again later.", True
    ),
    _E.IMAGE_TIMEOUT: ErrorInfo("Downloading the {image} took too long. Please try again later.", True),
    _E.IMAGE_TYPE_REFUSED: ErrorInfo("The {image} must be a JPEG, PNG or WebP picture.", False),
    _E.IMAGE_TYPE_MISMATCH: ErrorInfo("The {image} is not the kind of file it claims to be.", False),
    _E.IMAGE_ENCODING_REFUSED: ErrorInfo(
        "The web site of the {image} compresses it in a way we cannot read. Please upload it instead.", False
    ),
    _E.IMAGE_TOO_LARGE: ErrorInfo("The {image} is larger than 10 MB. Please use a smaller file.", False),
    _E.IMAGE_TOO_MANY_PIXELS: ErrorInfo(
        "The {image} has more than 50 megapixels. Please use a smaller picture.", False
    ),
    _E.IMAGE_EMPTY: ErrorInfo("The {image} is empty. Please add it again.", False),
    _E.IMAGE_DAMAGED: ErrorInfo("The {image} is damaged and cannot be opened. Please add it again.", False),
    _E.NO_PERSON: ErrorInfo("We could not find a person. Please use a photo of your whole body.", False),
    _E.SEVERAL_PEOPLE: ErrorInfo("There is more than one person. Please use a photo of you alone.", False),
    _E.HEAD_OUTSIDE_FRAME: ErrorInfo(
        "Your head is cut off. Please step back until it is in the photo.", False
    ),
    _E.FEET_OUTSIDE_FRAME: ErrorInfo(
        "Your feet are cut off. Please step back until they are in the photo.", False
    ),
    _E.FACING_AWAY: ErrorInfo("You are facing away. Please face the camera.", False),
    _E.TURNED: ErrorInfo("You are turned to the side. Please face the camera straight on.", False),
    _E.SEATED_OR_BENT: ErrorInfo("Please stand upright with straight legs.", False),
    _E.LEANING: ErrorInfo("You or the camera are tilted. Please stand straight and hold it level.", False),
    _E.LIMBS_HIDDEN: ErrorInfo("Part of your body is hidden. Please keep arms and legs in view.", False),
    _E.ARMS_COVER_TORSO: ErrorInfo(
        "Your arms cover your body. Please let them hang a little away from it.", False
    ),
    _E.ARMS_RAISED: ErrorInfo(
        "Your arms are raised. Please let them hang a little away from your body.", False
    ),
    _E.PERSON_TOO_SMALL: ErrorInfo("You are too far away. Please come closer to the camera.", False),
    _E.TOO_DARK: ErrorInfo("The photo is too dark. Please take it in better light.", False),
    _E.BLURRED: ErrorInfo("The photo is blurred. Please hold the camera still.", False),
    _E.IMPLAUSIBLE_BODY: ErrorInfo(
        "The photo and the height do not fit together. Please check the height or use another photo.", False
    ),
    _E.REQUEST_INVALID: ErrorInfo("The request is not valid.", False),
    _E.UNAUTHORIZED: ErrorInfo("A valid API key is needed.", False),
    _E.MODEL_NOT_LOADED: ErrorInfo("Sizing is starting up. Please try again in a moment.", True),
    _E.OVERLOADED: ErrorInfo("Many people are being sized just now. Please try again in a moment.", True),
    _E.BUDGET_EXCEEDED: ErrorInfo("Sizing took too long. Please try again.", True),
}


def describe(code: ErrorCode) -> ErrorInfo:
    """What is known about `code`."""
    return _INFO[code]


def sentence(code: ErrorCode, image: str = "photo") -> str:
    """The sentence a shopper reads for `code`; `image` names the picture it is about."""
    return _INFO[code].sentence.replace("{image}", image)
