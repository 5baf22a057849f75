"""Stands where OpenAI's image API stands, with the real one's answers, usage and errors.

POST /v1/images/edits and GET /v1/models/{model}. Which model takes which fields and until when it is served
stands in `openai_models`; what day it is can be set.

`python -m wearon_local.standins.openai` checks the request as the real API does and answers a picture drawn
from the inputs. What it does instead can be said in the prompt or through the control endpoints, in the same
words:

    [[standin:slow=5]]                 answers after 5 seconds
    [[standin:moderation_blocked]]     400 moderation_blocked; so does every other word of ERRORS below
    [[standin:rate_limit=3]]           429 rate_limit_exceeded, Retry-After: 3 (no number: no such header)
    [[standin:500]]                    this status (400 to 599) with a body of the API's form
    [[standin:html_500]]               500 with a page of HTML, as a proxy in front of the API sends it
    [[standin:hang]]                   never answers
    [[standin:drop]]                   closes the connection once the request is read ([[standin:reset]]: RST)
    [[standin:bad_base64]]             a picture that is not base64
    [[standin:bad_picture]]            base64 of something that is no picture
    [[standin:cut_off]]                the first half of a picture
    [[standin:tiny]]                   a picture of 256 by 384 pixels
    [[standin:blank]]                  a picture of one colour
    [[standin:no_data]]                200 without data

`_once` or `_twice` after a word makes it strike only the first call or two with this prompt and these images:
[[standin:rate_limit_once=3]]. Several may be given: [[standin:slow=2,500_once]].

Control endpoints beside those of `wearon_local.standins.faults`:

    GET    /_control/calls      every call: when, what came in, what came of it; DELETE forgets them
    POST   /_control/modes      {"mode": "rate_limit=3", "times": 5, "for_seconds": null, "contains": null}
    GET    /_control/modes      those set, with how often each struck; DELETE takes them out
    PUT    /_control/latency    {"seconds": 0.5, "jitter": 0.2}: how long every edit takes
    PUT    /_control/today      {"today": "2026-12-01"}: what day it is here; null: the real one
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import os
import random
import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final, Self
from uuid import uuid4

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from wearon_local.standins.faults import FaultInjection, close_connection, until_gone
from wearon_local.standins.http_server import serve
from wearon_local.standins.openai_models import ServedModel, output_tokens, served
from wearon_local.standins.picture import draw

_DIRECTIVE: Final = re.compile(r"\[\[standin:([^\]]*)\]\]")
_MODE: Final = re.compile(r"([a-z0-9_]+?)(_once|_twice)?(?:=(\d+(?:\.\d+)?))?")
_STATUS: Final = re.compile(r"[45]\d\d")
_WORDS: Final = {
    "slow",
    "html_500",
    "hang",
    "drop",
    "reset",
    "bad_base64",
    "bad_picture",
    "cut_off",
    "tiny",
    "blank",
    "no_data",
}
_MAX_PROMPT: Final = 32_000  # characters
_MAX_IDENTIFIER: Final = 64  # characters
_FORMATS: Final = {"jpeg", "png", "webp"}
_MAX_IMAGES: Final = 16
_MAX_IMAGE_BYTES: Final = 50 * 1024 * 1024
_KEPT_CALLS: Final = 20_000
_DRAWN_AT_ONCE: Final = 2

_TOKENS_PER_INPUT_IMAGE: Final = 323


class ApiError(Exception):
    """An answer that is not 200."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


_BAD_REQUEST: Final = "invalid_request_error"
ERRORS: Final[dict[str, tuple[int, str | None, str, str]]] = {
    # word: status, code, type, message
    "moderation_blocked": (
        400,
        "moderation_blocked",
        "image_generation_user_error",
        "Your request was rejected by the safety system. If you believe this is an error, contact us "
        "at help.openai.com. safety_violations=[sexual].",
    ),
    "content_policy_violation": (
        400,
        "content_policy_violation",
        _BAD_REQUEST,
        "Your request was rejected as a result of our safety system.",
    ),
    "rate_limit": (
        429,
        "rate_limit_exceeded",
        "requests",
        "Rate limit reached on images per min. Please try again later.",
    ),
    "insufficient_quota": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "quota_by_type": (429, None, "insufficient_quota", "You exceeded your current quota."),
    "billing_not_active": (
        429,
        "billing_not_active",
        "billing_not_active",
        "Your account is not active, please check your billing details on our website.",
    ),
    "billing_hard_limit_reached": (
        400,
        "billing_hard_limit_reached",
        _BAD_REQUEST,
        "Billing hard limit has been reached.",
    ),
    "invalid_api_key": (401, "invalid_api_key", _BAD_REQUEST, "Incorrect API key provided."),
    "forbidden": (
        403,
        None,
        _BAD_REQUEST,
        "Your organization must be verified to use the model. Please go to the organization settings.",
    ),
    "model_not_found": (
        404,
        "model_not_found",
        _BAD_REQUEST,
        "The model does not exist or you do not have access to it.",
    ),
    "unknown_parameter": (400, "unknown_parameter", _BAD_REQUEST, "Unknown parameter."),
    "invalid_image": (400, "invalid_image", _BAD_REQUEST, "Invalid image in 'image_1.jpg'."),
    "image_parse_error": (400, "image_parse_error", _BAD_REQUEST, "The image could not be parsed."),
    "prompt_too_long": (
        400,
        "string_above_max_length",
        _BAD_REQUEST,
        f"Invalid 'prompt': string too long. Expected a string with maximum length {_MAX_PROMPT}.",
    ),
}
"""Error answers on demand, by their words."""


@dataclass(frozen=True, slots=True)
class Mode:
    """One thing to do instead of answering: a word of the module's list, its limit and its number."""

    word: str
    first_calls: int | None = None
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for a word that is not known."""
        match = _MODE.fullmatch(text.strip())
        if match is None or not (match[1] in _WORDS or match[1] in ERRORS or _STATUS.fullmatch(match[1])):
            raise ValueError(f"unknown mode {text.strip()!r}")
        limit = {"_once": 1, "_twice": 2, None: None}[match[2]]
        return cls(match[1], limit, float(match[3]) if match[3] else None)


class ModeRequest(BaseModel):
    """A mode for calls from now on."""

    model_config = ConfigDict(extra="forbid")

    mode: str
    times: int | None = Field(default=None, ge=1, description="How often it strikes; null: until taken out.")
    for_seconds: float | None = None
    contains: str | None = Field(default=None, description="Text the prompt must hold.")


class TodayRequest(BaseModel):
    """What day it is; null: the real one."""

    model_config = ConfigDict(extra="forbid")

    today: date | None


class LatencyRequest(BaseModel):
    """How long every edit takes: `seconds`, give or take `jitter`."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(ge=0)
    jitter: float = Field(default=0, ge=0)


@dataclass
class _SetMode:
    asked: ModeRequest
    mode: Mode
    since: float = field(default_factory=time.monotonic)
    struck: int = 0

    def strikes(self, prompt: str) -> bool:
        asked = self.asked
        if asked.times is not None and self.struck >= asked.times:
            return False
        if asked.for_seconds is not None and time.monotonic() > self.since + asked.for_seconds:
            return False
        if asked.contains is not None and asked.contains not in prompt:
            return False
        self.struck += 1
        return True


@dataclass(frozen=True, slots=True)
class InputImage:
    """One uploaded picture, as the record describes it."""

    name: str
    content_type: str
    bytes: int
    sha256: str
    width: int
    height: int
    format: str


@dataclass
class Call:
    """One call.

    `key`: the hash of prompt and images. `outcome`: a mode's word, "ok", "refused" (by a check of the real
    API) or "client_gone"; it and `finished_at` are None while the call is under way.
    """

    id: str
    key: str
    started_at: float
    prompt: str
    parameters: dict[str, str]
    images: list[InputImage]
    headers: dict[str, str]
    outcome: str | None = None
    status: int | None = None
    finished_at: float | None = None
    result_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class _Edit:
    prompt: str
    images: list[bytes]
    described: list[InputImage]
    size: tuple[int, int]
    quality: str
    count: int
    output_format: str
    parameters: dict[str, str]

    @property
    def key(self) -> str:
        parts = [self.prompt, *(i.sha256 for i in self.described)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class OpenAiStandIn:
    """The endpoint, its modes and its record."""

    def __init__(self, *, api_key: str | None, latency: LatencyRequest) -> None:
        """`api_key`: the only one accepted; None accepts any."""
        self._api_key = api_key
        self._latency = latency
        self._set_day: date | None = None
        self._modes: list[_SetMode] = []
        self._calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._calls_by_key: Counter[str] = Counter()
        self._drawing = asyncio.Semaphore(_DRAWN_AT_ONCE)

    def routes(self) -> list[Route]:
        """The API and its own control endpoints."""
        return [
            Route("/v1/images/edits", self.edit, methods=["POST"]),
            Route("/v1/models/{model}", self.model),
            Route("/_control/calls", self._call_records, methods=["GET", "DELETE"]),
            Route("/_control/modes", self._set_modes, methods=["GET", "POST", "DELETE"]),
            Route("/_control/latency", self._set_latency, methods=["PUT"]),
            Route("/_control/today", self._set_today, methods=["PUT"]),
        ]

    async def edit(self, request: Request) -> Response:
        """POST /v1/images/edits."""
        started = time.time()
        request_id = f"req_{uuid4().hex}"
        try:
            self._check_key(request)
            async with request.form() as form:
                edit = await _read_edit(form, self._today())
            said = _said_in(edit.prompt)
        except ApiError as error:
            refused = Call(request_id, "", started, "", {}, [], _kept_headers(request))
            self._calls.append(refused)
            return self._finish(refused, "refused", error)
        call = Call(
            id=request_id,
            key=edit.key,
            started_at=started,
            prompt=edit.prompt,
            parameters=edit.parameters,
            images=edit.described,
            headers=_kept_headers(request),
        )
        self._calls.append(call)
        self._calls_by_key[edit.key] += 1
        modes = [
            *(m for m in said if m.first_calls is None or self._calls_by_key[edit.key] <= m.first_calls),
            *(s.mode for s in self._modes if s.strikes(edit.prompt)),
        ]
        if not await self._take_time(request, modes):
            call.outcome, call.finished_at = "client_gone", time.time()
            return Response(status_code=499)
        mode = next((m for m in modes if m.word != "slow"), None)
        return await self._answer(request, call, edit, mode)

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        name = request.path_params["model"]
        try:
            self._check_key(request)
            found = _known_model(name, self._today())
        except ApiError as error:
            return JSONResponse(error.body, error.status)
        shutdown = found.shutdown.isoformat() if found.shutdown else None
        told = {"id": name, "object": "model", "created": 1_730_764_800, "owned_by": "system"}
        return JSONResponse({**told, "shutdown_date": shutdown})

    def _today(self) -> date:
        return self._set_day or datetime.now(UTC).date()

    async def _answer(self, request: Request, call: Call, edit: _Edit, mode: Mode | None) -> Response:
        if mode is None:
            return await self._answer_picture(call, edit)
        answer: Response | ApiError
        match mode.word:
            case "hang" | "drop" | "reset" as word:
                # Nothing is ever answered: over for us as soon as the request is read.
                call.outcome, call.finished_at = word, time.time()
                if word == "hang":
                    await until_gone(request.receive)
                else:
                    await close_connection(request.scope, request.receive, reset=word == "reset")
                return Response(status_code=499)
            case "html_500":
                page = "<html><head><title>500 Internal Server Error</title></head><body></body></html>"
                answer = Response(page, 500, media_type="text/html")
            case "bad_base64":
                answer = _answered(["%%% not base64 %%%"], edit)
            case "bad_picture":
                answer = _answered([_base64(b"not a picture at all")], edit)
            case "cut_off" | "tiny" | "blank" as word:
                answer = _answered([_base64(await asyncio.to_thread(_spoilt, edit, word))], edit)
            case "no_data":
                answer = _answered([], edit)
            case _:
                answer = _error(mode)
        return self._finish(call, mode.word, answer)

    async def _answer_picture(self, call: Call, edit: _Edit) -> Response:
        async with self._drawing:
            pictures = [
                await asyncio.to_thread(
                    draw, edit.images, edit.size, edit.output_format, mark=f"stand-in {edit.key} {index}"
                )
                for index in range(edit.count)
            ]
        call.result_sha256 = hashlib.sha256(pictures[0]).hexdigest()
        return self._finish(call, "ok", _answered([_base64(p) for p in pictures], edit))

    def _finish(self, call: Call, outcome: str, answer: Response | ApiError) -> Response:
        response = (
            JSONResponse(answer.body, answer.status, answer.headers)
            if isinstance(answer, ApiError)
            else answer
        )
        response.headers["x-request-id"] = call.id
        call.outcome, call.status, call.finished_at = outcome, response.status_code, time.time()
        return response

    def _check_key(self, request: Request) -> None:
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not key:
            raise ApiError(401, "You didn't provide an API key. You need to provide your API key.")
        if self._api_key is not None and key != self._api_key:
            raise ApiError(
                401, f"Incorrect API key provided: {key[:7]}****{key[-4:]}.", code="invalid_api_key"
            )

    async def _take_time(self, request: Request, modes: Sequence[Mode]) -> bool:
        """False if the client went away meanwhile."""
        spread = self._latency.jitter
        seconds = max(0.0, self._latency.seconds + random.uniform(-spread, spread))
        seconds += sum(m.value or 0 for m in modes if m.word == "slow")
        if seconds == 0:
            return True
        gone = asyncio.create_task(until_gone(request.receive))
        done, _ = await asyncio.wait({gone}, timeout=seconds)
        gone.cancel()
        return not done

    async def _call_records(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._calls.clear()
            self._calls_by_key.clear()
            return Response(status_code=204)
        return JSONResponse([asdict(c) for c in self._calls])

    async def _set_modes(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._modes.clear()
            return Response(status_code=204)
        if request.method == "POST":
            try:
                asked = ModeRequest.model_validate_json(await request.body())
                self._modes.append(_SetMode(asked, Mode.parse(asked.mode)))
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 422)
            return Response(status_code=204)
        return JSONResponse([{"struck": m.struck, **m.asked.model_dump()} for m in self._modes])

    async def _set_latency(self, request: Request) -> Response:
        try:
            self._latency = LatencyRequest.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        return Response(status_code=204)

    async def _set_today(self, request: Request) -> Response:
        try:
            self._set_day = TodayRequest.model_validate_json(await request.body()).today
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        return Response(status_code=204)


def _spoilt(edit: _Edit, word: str) -> bytes:
    """A picture that nobody can use."""
    if word == "cut_off":
        drawn = draw(edit.images, edit.size, edit.output_format, mark=edit.key)
        return drawn[: len(drawn) // 2]
    if word == "tiny":
        return draw(edit.images, (256, 384), edit.output_format, mark=edit.key)
    blank = io.BytesIO()
    Image.new("RGB", edit.size, (128, 128, 128)).save(blank, edit.output_format)
    return blank.getvalue()


def _said_in(prompt: str) -> list[Mode]:
    words = ",".join(_DIRECTIVE.findall(prompt)).split(",")
    try:
        return [Mode.parse(word) for word in words if word.strip()]
    except ValueError as error:
        raise ApiError(400, str(error), param="prompt") from None


def _known_model(name: str, today: date) -> ServedModel:
    model = served(name, today)
    if model is None:
        raise ApiError(
            404,
            f"The model `{name}` does not exist or you do not have access to it.",
            code="model_not_found",
            param="model",
        )
    return model


async def _read_edit(form: FormData, today: date) -> _Edit:
    """What the form asks for, checked as the real API checks it. Raises ApiError."""
    fields = {k: str(v) for k, v in form.multi_items() if not isinstance(v, UploadFile)}
    model = _known_model(fields.get("model", ""), today)
    for name in sorted(fields.keys() - model.fields):
        raise ApiError(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)
    prompt = fields.get("prompt", "")
    if not prompt:
        raise ApiError(
            400, "Missing required parameter: 'prompt'.", code="missing_required_parameter", param="prompt"
        )
    if len(prompt) > _MAX_PROMPT:
        raise _error(Mode("prompt_too_long"), param="prompt")
    size = model.size(fields.get("size", "auto"))
    if size is None:
        raise ApiError(400, f"Invalid value: '{fields['size']}'.", code="invalid_value", param="size")
    qualities = {"auto": "medium", **{q: q for q in model.qualities}}
    quality = _one_of(fields, "quality", qualities, default="auto")
    _one_of(fields, "complexity", dict.fromkeys(("low", "medium", "high")), default="high")
    if len(fields.get("safety_identifier", "")) > _MAX_IDENTIFIER:
        raise ApiError(
            400,
            f"Invalid 'safety_identifier': longer than {_MAX_IDENTIFIER} characters.",
            code="string_above_max_length",
            param="safety_identifier",
        )
    output_format = _one_of(fields, "output_format", {f: f for f in _FORMATS}, default="png")
    count = _one_of(fields, "n", {str(n): n for n in range(1, 11)}, default="1")
    files = [v for k, v in form.multi_items() if k in {"image", "image[]"} and isinstance(v, UploadFile)]
    if not 1 <= len(files) <= _MAX_IMAGES:
        raise ApiError(
            400, "Missing required parameter: 'image'.", code="missing_required_parameter", param="image"
        )
    images = [await f.read() for f in files]
    described = [_describe(f, data) for f, data in zip(files, images, strict=True)]
    return _Edit(prompt, images, described, size, quality, count, output_format, fields)


def _describe(file: UploadFile, data: bytes) -> InputImage:
    content_type = file.content_type or "application/octet-stream"
    if content_type not in {"image/jpeg", "image/png", "image/webp"}:
        raise ApiError(
            400,
            f"Invalid file 'image': unsupported mimetype ('{content_type}'). Supported file formats are "
            "'image/jpeg', 'image/png', and 'image/webp'.",
            code="unsupported_file_mimetype",
            param="image",
        )
    if len(data) > _MAX_IMAGE_BYTES:
        raise ApiError(400, "Invalid file 'image': too large.", code="invalid_image_file", param="image")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
            width, height, picture_format = *image.size, image.format or ""
    except (OSError, SyntaxError, ValueError) as error:
        raise ApiError(
            400, "Invalid image file or mode for image.", code="invalid_image_file", param="image"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    return InputImage(file.filename or "", content_type, len(data), digest, width, height, picture_format)


def _one_of(fields: dict[str, str], name: str, values: dict[str, Any], *, default: str) -> Any:
    value = fields.get(name, default)
    if value not in values:
        known = ", ".join(f"'{v}'" for v in values)
        raise ApiError(
            400,
            f"Invalid value: '{value}'. Supported values are: {known}.",
            code="invalid_value",
            param=name,
        )
    return values[value]


def _error(mode: Mode, param: str | None = None) -> ApiError:
    if mode.word in ERRORS:
        status, code, kind, message = ERRORS[mode.word]
        headers = {"retry-after": f"{mode.value:g}"} if mode.value is not None else {}
        return ApiError(status, message, code=code, kind=kind, param=param, headers=headers)
    message = "The server had an error while processing your request. Sorry about that!"
    kind = "server_error" if mode.word.startswith("5") else _BAD_REQUEST
    return ApiError(int(mode.word), message, kind=kind)


def _answered(pictures: list[str], edit: _Edit) -> Response:
    text_tokens = max(1, len(edit.prompt) // 4)
    image_tokens = _TOKENS_PER_INPUT_IMAGE * len(edit.images)
    made_tokens = output_tokens(edit.quality, edit.size) * edit.count
    return JSONResponse(
        {
            "created": int(time.time()),
            "background": "opaque",
            "data": [{"b64_json": p} for p in pictures],
            "output_format": edit.output_format,
            "quality": edit.quality,
            "size": f"{edit.size[0]}x{edit.size[1]}",
            "usage": {
                "input_tokens": text_tokens + image_tokens,
                "input_tokens_details": {"image_tokens": image_tokens, "text_tokens": text_tokens},
                "output_tokens": made_tokens,
                "output_tokens_details": {"image_tokens": made_tokens, "text_tokens": 0},
                "total_tokens": text_tokens + image_tokens + made_tokens,
            },
        }
    )


def _kept_headers(request: Request) -> dict[str, str]:
    return {k: v for k, v in request.headers.items() if k not in {"authorization", "content-type"}}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def build_app(*, api_key: str | None, latency: LatencyRequest) -> ASGIApp:
    """The stand-in with the control endpoints."""
    app = Starlette()
    faults = FaultInjection(app)
    app.router.routes += [*faults.routes(), *OpenAiStandIn(api_key=api_key, latency=latency).routes()]
    return faults


def main() -> None:
    """Serve until told to stop. OPENAI_API_KEY: the only key accepted; without it any is."""
    parser = argparse.ArgumentParser(
        prog="python -m wearon_local.standins.openai",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8200)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds every answer takes")
    parser.add_argument("--jitter", type=float, default=0.0, help="give or take so many seconds")
    arguments = parser.parse_args()
    latency = LatencyRequest(seconds=arguments.latency, jitter=arguments.jitter)
    app = build_app(api_key=os.environ.get("OPENAI_API_KEY"), latency=latency)
    serve(app, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
