"""What is answered: the JSON of a measurement, and for every error code its HTTP status and an example."""

from __future__ import annotations

from typing import Any, Final

from wearon_contracts.errors import ErrorCode, Family, describe, sentence
from wearon_contracts.sizing import (
    ChartSize,
    CheckPhotoResponse,
    EstimateBodyResponse,
    Interval,
    Measured,
    Measurements,
    PhotoSeen,
    SizeRange,
    SizingError,
)
from wearon_sizing.photo_check import Sight
from wearon_sizing.population import LENGTHS
from wearon_sizing.sizing import Estimate

SHOPPERS_PHOTO: Final = "photo"
RETRY_AFTER_SECONDS: Final = 1
WILL_DO: Final = "This photo will do."

_DESCRIPTIONS: Final = {
    400: "The photo cannot be downloaded or is not a picture.",
    401: "API keys are in use and the request brings none of them.",
    408: "The body of the request did not arrive within five seconds.",
    413: "The request is larger than any valid one.",
    422: "The photo cannot be measured, or the request is not valid.",
    500: "A fault of this service.",
    503: "Not now: the model is not loaded, too many photos wait, or the time for the request is over.",
}


_OF_ANY_REQUEST: Final = frozenset(
    {
        ErrorCode.INTERNAL_ERROR,
        ErrorCode.OVERLOADED,
        ErrorCode.REQUEST_INVALID,
        ErrorCode.REQUEST_TIMEOUT,
        ErrorCode.UNAUTHORIZED,
    }
)


def _of_family(family: Family) -> frozenset[ErrorCode]:
    return frozenset(code for code in ErrorCode if describe(code).family is family)


# A picture of a few pixels is no error of its own here: it shows nobody who is large enough.
_OF_A_PICTURE: Final = _of_family(Family.PICTURE) - {ErrorCode.IMAGE_TOO_SMALL}
_OF_WORK_ON_A_PICTURE: Final = _OF_A_PICTURE | {ErrorCode.MODEL_NOT_LOADED, ErrorCode.BUDGET_EXCEEDED}
# What a try-on alone asks for, and why a side photo is left out, which a warning says.
_NEVER_A_REFUSAL: Final = frozenset({ErrorCode.UPPER_BODY_OUTSIDE_FRAME, ErrorCode.NOT_IN_PROFILE})
WITHOUT_PHOTO_CODES: Final = _OF_ANY_REQUEST | {ErrorCode.SIZE_CHART_INVALID}
CHECK_PHOTO_CODES: Final = _OF_ANY_REQUEST | _OF_WORK_ON_A_PICTURE
ESTIMATE_BODY_CODES: Final = (
    WITHOUT_PHOTO_CODES | CHECK_PHOTO_CODES | _of_family(Family.SIZING_PHOTO) - _NEVER_A_REFUSAL
)
"""The error codes of each path that is asked with POST."""


def status_of(code: ErrorCode) -> int:
    """The HTTP status that goes with an error code; 500 for one that no shopper's input leads to."""
    return describe(code).http_status or 500


def _codes_by_status() -> dict[int, list[ErrorCode]]:
    """The codes that an answer of each status may bring."""
    codes: dict[int, list[ErrorCode]] = {status: [] for status in _DESCRIPTIONS}
    for code in ErrorCode:
        if (status := describe(code).http_status) is not None:
            codes[status].append(code)
    # The one code with two statuses: the middleware answers 413 to a body that is too long to be read.
    codes[413].append(ErrorCode.REQUEST_INVALID)
    return codes


def problem(
    code: ErrorCode,
    request_id: str,
    detail: str | None = None,
    fallback: EstimateBodyResponse | None = None,
) -> dict[str, Any]:
    """The JSON of an error. `detail` replaces the code's own sentence."""
    error = SizingError(
        detail=detail or sentence(code, SHOPPERS_PHOTO), code=code, request_id=request_id, fallback=fallback
    )
    return error.model_dump(mode="json", exclude={"fallback"} if fallback is None else None)


def retry_after(code: ErrorCode) -> dict[str, str]:
    """The header that tells a client when to come back, where that helps."""
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status_of(code) == 503 else {}


def answer(
    estimate: Estimate, method_version: str, chart_size: ChartSize | None = None
) -> EstimateBodyResponse:
    """Lengths to a millimetre, the confidence to a thousandth."""
    intervals: dict[Measured, Interval] = {}
    for name in LENGTHS:
        lower, upper = estimate.body.interval(name)
        intervals[name] = Interval(lower=round(max(lower, 0.1), 1), upper=round(upper, 1))
    advice = estimate.advice
    return EstimateBodyResponse(
        recommended_size=advice.size,
        measurements=Measurements(**{name: round(estimate.body.value(name), 1) for name in LENGTHS}),
        confidence=round(advice.confidence, 3),
        body_type=estimate.body_type,
        size_range=SizeRange(lower=advice.lower, upper=advice.upper),
        intervals=intervals,
        warnings=estimate.warnings,
        inputs_used=estimate.inputs_used,
        method_version=method_version,
        photo_trust=round(estimate.photo_trust, 3),
        chart_size=chart_size,
    )


def checked(sight: Sight, refusal: ErrorCode | None) -> CheckPhotoResponse:
    """The answer about a photo that was looked at."""
    return CheckPhotoResponse(
        usable=refusal is None,
        code=refusal,
        sentence=WILL_DO if refusal is None else sentence(refusal, SHOPPERS_PHOTO),
        seen=PhotoSeen(
            people=sight.people,
            body=sight.body,
            light=round(sight.light, 3),
            sharpness=round(sight.sharpness, 3),
        ),
    )


def documented_errors(possible: frozenset[ErrorCode]) -> dict[int | str, dict[str, Any]]:
    """The error answers of one path for the OpenAPI document, with an example for every `possible` code."""
    by_status = {
        status: [code for code in codes if code in possible] for status, codes in _codes_by_status().items()
    }
    return {
        status: {
            "model": SizingError,
            "description": _DESCRIPTIONS[status],
            "content": {
                "application/json": {
                    "examples": {
                        code.value: {
                            "summary": "The same request may work later"
                            if describe(code).retryable
                            else "The same request will be refused again",
                            "value": problem(code, "3f0c9d1e-5a7b-4a53-9e0e-0d9b1c2f7a11"),
                        }
                        for code in codes
                    }
                }
            },
            "headers": _HEADERS | (_RETRY_HEADER if status == 503 else {}),
        }
        for status, codes in by_status.items()
        if codes
    }


_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's own id or the one made for it.",
        "schema": {"type": "string"},
    }
}
_RETRY_HEADER: Final[dict[str, Any]] = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
}
