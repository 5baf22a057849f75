"""Every error a person can meet, in one table.

To add one: add its code to `ErrorCode`, its row to `_TABLE`, and run `make generated`.
"""

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
    CANCELLED = "cancelled"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    RESULT_NOT_STORED = "result_not_stored"
    INTERNAL_ERROR = "internal_error"

    # The image provider
    MODERATION_BLOCKED = "moderation_blocked"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "insufficient_quota"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_REFUSED = "provider_refused"
    PROMPT_REFUSED = "prompt_refused"
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
    IMAGE_ACCESS_REFUSED = "image_access_refused"
    IMAGE_URL_EXPIRED = "image_url_expired"
    IMAGE_UNREACHABLE = "image_unreachable"
    IMAGE_TIMEOUT = "image_timeout"
    IMAGE_TYPE_REFUSED = "image_type_refused"
    IMAGE_HEIC = "image_heic"
    IMAGE_GIF = "image_gif"
    IMAGE_SVG = "image_svg"
    IMAGE_PDF = "image_pdf"
    IMAGE_VIDEO = "image_video"
    IMAGE_WEB_PAGE = "image_web_page"
    IMAGE_ENCODING_REFUSED = "image_encoding_refused"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_MANY_PIXELS = "image_too_many_pixels"
    IMAGE_TOO_HEAVY = "image_too_heavy"
    IMAGE_TOO_SMALL = "image_too_small"
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
    ARMS_BENT = "arms_bent"
    ARMS_RAISED = "arms_raised"
    CAMERA_TOO_LOW = "camera_too_low"
    NOT_IN_PROFILE = "not_in_profile"
    PERSON_TOO_SMALL = "person_too_small"
    TOO_DARK = "too_dark"
    BLURRED = "blurred"
    IMPLAUSIBLE_BODY = "implausible_body"
    UPPER_BODY_OUTSIDE_FRAME = "upper_body_outside_frame"

    # The sizing API as a service
    REQUEST_INVALID = "request_invalid"
    SIZE_CHART_INVALID = "size_chart_invalid"
    REQUEST_TIMEOUT = "request_timeout"
    UNAUTHORIZED = "unauthorized"
    MODEL_NOT_LOADED = "model_not_loaded"
    OVERLOADED = "overloaded"
    BUDGET_EXCEEDED = "budget_exceeded"


class Family(StrEnum):
    """What an error is about, and so who can do something about it."""

    TASK = "task"  # the message or its session
    PICTURE = "picture"  # one of the shopper's pictures
    PROMPT = "prompt"  # the text that goes with the pictures
    MODERATION = "moderation"  # what the provider's safety filter refuses
    RATE_LIMIT = "rate_limit"  # too much at once; the same job works a little later
    PASSING = "passing"  # trouble of a network or a server that passes by itself
    OURS = "ours"  # our account, settings or code; only the operator can mend it
    SIZING_PHOTO = "sizing_photo"  # a photo that shows no body the sizing API can measure
    SERVICE = "service"  # the sizing API as a service


TRY_ON_FAMILIES: Final = frozenset(Family) - {Family.SIZING_PHOTO, Family.SERVICE}
"""What a try-on can fail with."""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """One row of the table.

    `sentence` may hold `{image}`, the picture it is about. `retryable`: the same input may work later.
    `http_status` is the sizing API's answer; None for a code that only try-ons end with.
    """

    code: ErrorCode
    sentence: str
    retryable: bool
    http_status: int | None
    family: Family


_C = ErrorCode
_F = Family
_TABLE: Final = (
    ErrorInfo(
        _C.INVALID_TASK,
        "This try-on request could not be read. Please start it again from the app.",
        False,
        None,
        _F.TASK,
    ),
    ErrorInfo(
        _C.SESSION_NOT_FOUND,
        "This try-on is not known. Please start it again from the app.",
        False,
        None,
        _F.TASK,
    ),
    ErrorInfo(
        _C.STUCK,
        "This try-on could not be finished in time. Please try again.",
        True,
        None,
        _F.PASSING,
    ),
    ErrorInfo(
        _C.CANCELLED,
        "This try-on was cancelled. You can start a new one at any time.",
        True,
        None,
        _F.TASK,
    ),
    ErrorInfo(
        _C.ATTEMPTS_EXHAUSTED,
        "This try-on was started several times and never finished. Please try again later.",
        True,
        None,
        _F.PASSING,
    ),
    ErrorInfo(_C.DEADLINE_EXCEEDED, "This try-on took too long. Please try again.", True, None, _F.PASSING),
    ErrorInfo(
        _C.RESULT_NOT_STORED,
        "The finished picture could not be saved. Please try again later.",
        True,
        None,
        _F.OURS,
    ),
    ErrorInfo(
        _C.INTERNAL_ERROR, "Something went wrong on our side. Please try again later.", True, 500, _F.OURS
    ),
    ErrorInfo(
        _C.MODERATION_BLOCKED,
        "The safety filter flagged the {image}. Please try again with different images.",
        False,
        None,
        _F.MODERATION,
    ),
    ErrorInfo(
        _C.RATE_LIMITED,
        "Too many try-ons are being made right now. Please try again shortly.",
        True,
        None,
        _F.RATE_LIMIT,
    ),
    ErrorInfo(
        _C.QUOTA_EXHAUSTED,
        "Try-ons are not available right now. Please try again later.",
        True,
        None,
        _F.OURS,
    ),
    ErrorInfo(
        _C.PROVIDER_UNAVAILABLE,
        "The image service did not answer. Please try again in a few minutes.",
        True,
        None,
        _F.PASSING,
    ),
    ErrorInfo(
        _C.PROVIDER_REFUSED,
        "The image service could not use the {image}. Please try again with different images.",
        False,
        None,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.PROMPT_REFUSED,
        "The image service refused the wording of this try-on. Please change or shorten it.",
        False,
        None,
        _F.PROMPT,
    ),
    ErrorInfo(
        _C.PROVIDER_BAD_ANSWER,
        "The image service sent back no usable picture. Please try again.",
        True,
        None,
        _F.PASSING,
    ),
    ErrorInfo(
        _C.IMAGE_URL_INVALID,
        "The address of the {image} is not valid. Please add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_SCHEME_REFUSED,
        "The address of the {image} must begin with https:// or http://.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_CREDENTIALS_REFUSED,
        "The address of the {image} must not contain a user name or password.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_PORT_REFUSED,
        "The address of the {image} uses a port that is not allowed.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_ADDRESS_REFUSED, "The {image} is not on a public web address.", False, 400, _F.PICTURE
    ),
    ErrorInfo(
        _C.IMAGE_HOST_UNKNOWN, "The web site of the {image} could not be found.", True, 400, _F.PICTURE
    ),
    ErrorInfo(
        _C.IMAGE_REDIRECT_REFUSED,
        "The address of the {image} leads on to another one. Please use the final address.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_HTTP_ERROR,
        "The web site of the {image} does not have it at this address. Please add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_ACCESS_REFUSED,
        "The web site of the {image} does not let us have it. Please upload the picture instead.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_URL_EXPIRED,
        "The link to the {image} has expired. Please add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_UNREACHABLE,
        "The web site of the {image} did not answer. Please try again later.",
        True,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_TIMEOUT,
        "Downloading the {image} took too long. Please try again later.",
        True,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_TYPE_REFUSED,
        "The {image} is not a kind of picture that we can open. Please use a JPEG, PNG or WebP.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_HEIC,
        "The {image} is a HEIC picture, as iPhones take them. Please save it as JPEG and add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_GIF,
        "The {image} is a GIF, which we cannot open. Please save it as JPEG or PNG and add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_SVG,
        "The {image} is an SVG drawing, which we cannot open. Please save it as PNG and add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_PDF,
        "The {image} is a PDF document, not a picture. Please save it as JPEG and add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_VIDEO,
        "The {image} is a video, which we cannot use. Please add a photo instead.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_WEB_PAGE,
        "The address of the {image} is that of a web page. Please use the picture's own address.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_ENCODING_REFUSED,
        "The web site of the {image} compresses it in a way we cannot read. Please upload it instead.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_TOO_LARGE,
        "The {image} is larger than 10 MB. Please use a smaller file.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_TOO_MANY_PIXELS,
        "The {image} has more than 50 megapixels. Please use a smaller picture.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_TOO_HEAVY,
        "The {image} has more pixels than we can open right now. Please use a smaller picture.",
        True,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.IMAGE_TOO_SMALL,
        "The {image} is under 64 pixels wide or high. Please use a larger picture.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(_C.IMAGE_EMPTY, "The {image} is empty. Please add it again.", False, 400, _F.PICTURE),
    ErrorInfo(
        _C.IMAGE_DAMAGED,
        "The {image} is damaged and cannot be opened. Please add it again.",
        False,
        400,
        _F.PICTURE,
    ),
    ErrorInfo(
        _C.NO_PERSON,
        "We could not find a person. Please use a photo of your whole body.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.SEVERAL_PEOPLE,
        "There is more than one person. Please use a photo of you alone.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.HEAD_OUTSIDE_FRAME,
        "Your head is cut off. Please step back until it is in the photo.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.FEET_OUTSIDE_FRAME,
        "Your feet are cut off. Please step back until they are in the photo.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(_C.FACING_AWAY, "You are facing away. Please face the camera.", False, 422, _F.SIZING_PHOTO),
    ErrorInfo(
        _C.TURNED,
        "You are turned to the side. Please face the camera straight on.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(_C.SEATED_OR_BENT, "Please stand upright with straight legs.", False, 422, _F.SIZING_PHOTO),
    ErrorInfo(
        _C.LEANING,
        "You or the camera are tilted. Please stand straight and hold it level.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.LIMBS_HIDDEN,
        "Part of your body is hidden. Please keep arms and legs in view.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.ARMS_COVER_TORSO,
        "Your hands are in front of your body. Please let your arms hang beside it.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.ARMS_BENT,
        "Your elbows are bent. Please put down what you hold and let your arms hang beside your body.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.CAMERA_TOO_LOW,
        "The camera is too low. Please put it at the height of your belly, about 2.5 metres away.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.NOT_IN_PROFILE,
        "The side photo must show you from the side. Please turn until one shoulder points at the camera.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.ARMS_RAISED,
        "Your arms are raised. Please let them hang a little away from your body.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.PERSON_TOO_SMALL,
        "You are too small in the photo. Please come closer to the camera, or send a larger photo.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.TOO_DARK, "The photo is too dark. Please take it in better light.", False, 422, _F.SIZING_PHOTO
    ),
    ErrorInfo(_C.BLURRED, "The photo is blurred. Please hold the camera still.", False, 422, _F.SIZING_PHOTO),
    ErrorInfo(
        _C.IMPLAUSIBLE_BODY,
        "The photo does not fit what was given. Please check height and weight, or use another photo.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(
        _C.UPPER_BODY_OUTSIDE_FRAME,
        "Too little of you is in the photo. Please show yourself at least down to the waist.",
        False,
        422,
        _F.SIZING_PHOTO,
    ),
    ErrorInfo(_C.REQUEST_INVALID, "The request is not valid.", False, 422, _F.SERVICE),
    ErrorInfo(_C.SIZE_CHART_INVALID, "The size chart cannot be used.", False, 422, _F.SERVICE),
    ErrorInfo(
        _C.REQUEST_TIMEOUT,
        "The request did not arrive in time. Please try again.",
        True,
        408,
        _F.SERVICE,
    ),
    ErrorInfo(_C.UNAUTHORIZED, "A valid API key is needed.", False, 401, _F.SERVICE),
    ErrorInfo(
        _C.MODEL_NOT_LOADED, "Sizing is starting up. Please try again in a moment.", True, 503, _F.SERVICE
    ),
    ErrorInfo(
        _C.OVERLOADED,
        "Many people are being sized right now. Please try again in a moment.",
        True,
        503,
        _F.SERVICE,
    ),
    ErrorInfo(_C.BUDGET_EXCEEDED, "Sizing took too long. Please try again.", True, 503, _F.SERVICE),
)
_BY_CODE: Final = {info.code: info for info in _TABLE}


def describe(code: ErrorCode) -> ErrorInfo:
    """What is known about `code`."""
    return _BY_CODE[code]


def sentence(code: ErrorCode, image: str = "photo") -> str:
    """The sentence a shopper reads for `code`; `image` names the picture it is about."""
    return _BY_CODE[code].sentence.replace("{image}", image)
