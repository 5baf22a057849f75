"""OpenAI's image edits as a `Provider`. The only module that knows OpenAI's SDK."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

import httpcore
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError
from openai.types import ImagesResponse
from openai.types import Model as OpenAIModel

from wearon_generator.models import Model
from wearon_generator.openai_errors import classify, picture_in_question
from wearon_generator.prices import Usage, estimate_cost
from wearon_generator.prompts import default_prompt, file_names
from wearon_generator.provider import Generated, ModelState, ModelStatus, ProviderError
from wearon_generator.refusals import Refusal
from wearon_generator.storage import content_type
from wearon_generator.timing import utc_now
from wearon_service_kit.environment import Proxies
from wearon_service_kit.pauses import asked_pause
from wearon_service_kit.tracing import NO_TRACER, Span, Tracer

OPENAI_URL: Final = "https://api.openai.com/v1"
_LOOK_UP_SECONDS: Final = 10.0  # time limit of the question whether a model is served
_STATES: Final = {
    Refusal.MODEL_GONE: ModelState.GONE,
    Refusal.KEY_REFUSED: ModelState.KEY_REFUSED,
    Refusal.SERVER_ERROR: ModelState.UNREACHABLE,
    Refusal.RATE_LIMIT: ModelState.UNREACHABLE,
}
_OPERATION: Final = "generate_content"
_UNREADABLE: Final = (ValueError, RecursionError)
"""What parsers raise: no JSON, bytes of no text, nested too deeply."""
_MOST_TOKENS: Final = 2**31 - 1  # the ledger's columns are integers


def connect_openai(
    api_key: str,
    *,
    base_url: str | None,
    organization: str | None,
    project: str | None,
    proxies: Proxies,
    timeout_seconds: float,
    tracer: Tracer = NO_TRACER,
) -> AsyncOpenAI:
    """Build the client; `base_url`: another server that speaks OpenAI's API.

    Its own retries are off, because every call needs a slot of the global limit. No redirect is followed:
    a call holds photos of persons. Nothing is left for the SDK to take from the environment.
    """
    url = base_url or OPENAI_URL
    http = DefaultAsyncHttpxClient(
        trust_env=False,
        proxy=proxies.between_us_and(url),
        verify=httpcore.default_ssl_context(),
        follow_redirects=False,
    )
    if tracer.provider is not None:
        from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor  # noqa: PLC0415

        client_of_httpx2: Any = http  # its types know httpx alone
        HTTPX2ClientInstrumentor.instrument_client(client_of_httpx2, tracer_provider=tracer.provider)
    client = AsyncOpenAI(
        api_key=api_key, base_url=url, timeout=timeout_seconds, max_retries=0, http_client=http
    )
    # Given as arguments, None would mean the environment's.
    client.organization, client.project = organization, project
    return client


class OpenAIProvider:
    """One model of OpenAI's; `fields`: what is asked for besides model, pictures and prompt."""

    def __init__(
        self, client: AsyncOpenAI, model: Model, fields: Mapping[str, str], tracer: Tracer = NO_TRACER
    ) -> None:
        self._client = client
        self._model = model
        self._fields = fields
        self._tracer = tracer

    @property
    def model(self) -> str:
        """See `Provider`."""
        return self._model.name

    async def look_up(self) -> ModelStatus:
        """See `Provider`."""
        try:
            found: object = await self._client.models.retrieve(self._model.name, timeout=_LOOK_UP_SECONDS)
        except APIStatusError as error:
            refusal = classify(error.status_code, _text(error.code), _text(error.type), _text(error.param))
            return self._status(_STATES.get(refusal, ModelState.NOT_TOLD), f"status {error.status_code}")
        except APIConnectionError as error:
            return self._status(ModelState.UNREACHABLE, type(error).__name__)
        except (OpenAIError, *_UNREADABLE) as error:
            return self._status(ModelState.NOT_TOLD, type(error).__name__)
        if not isinstance(found, OpenAIModel):
            return self._status(ModelState.NOT_TOLD, "the answer is not the API's")
        return self._status(ModelState.SERVED, ends=_date(found.shutdown_date))

    def _status(self, state: ModelState, detail: str = "", ends: date | None = None) -> ModelStatus:
        return ModelStatus(self._model.name, state, ends, detail, "OpenAI", "OPENAI_API_KEY")

    async def edit(self, pictures: Sequence[bytes], prompt: str, end_user: str) -> Generated:
        """See `Provider.edit`."""
        # Named as OpenTelemetry's conventions for generative AI have it, which know no word for an edit of
        # images; neither prompt nor pictures are among the attributes.
        operation = {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": self._model.name,
            "gen_ai.output.type": "image",
        }
        with self._tracer.span(f"{_OPERATION} {self._model.name}", "client", operation) as span:
            try:
                generated = await self._edit(pictures, prompt, end_user)
            except ProviderError as error:
                span.fail(error.refusal.value)
                _describe(span, error.usage, error.cost)
                raise
            span.describe({"gen_ai.response.model": generated.model})
            _describe(span, generated.usage, generated.cost)
            return generated

    async def _edit(self, pictures: Sequence[bytes], prompt: str, end_user: str) -> Generated:
        names = file_names(len(pictures))
        try:
            response = await self._client.images.edit(
                image=[(name, data, "image/jpeg") for name, data in zip(names, pictures, strict=True)],
                model=self._model.name,
                prompt=prompt or default_prompt(len(pictures)),
                n=1,
                output_format="jpeg",
                safety_identifier=end_user,
                extra_body=dict(self._fields),
            )
        except APIStatusError as error:
            raise self._refused(error, len(pictures)) from error
        except APIConnectionError as error:
            raise self._error(Refusal.CONNECTION, type(error).__name__) from error
        except (OpenAIError, *_UNREADABLE) as error:
            # The SDK could not make sense of the answer.
            raise self._error(Refusal.BAD_ANSWER, type(error).__name__) from error
        return self._picture(response)

    def _refused(self, error: APIStatusError, pictures: int) -> ProviderError:
        code, kind, param = _text(error.code), _text(error.type), _text(error.param)
        return ProviderError(
            classify(error.status_code, code, kind, param),
            f"status {error.status_code}, code {code}, type {kind}",
            model=self._model.name,
            picture=picture_in_question(param, error.message, pictures),
            retry_after=asked_pause(error.response.headers.get("retry-after", ""), utc_now()),
        )

    def _error(
        self, refusal: Refusal, detail: str, usage: Usage | None = None, cost: Decimal | None = None
    ) -> ProviderError:
        return ProviderError(refusal, detail, model=self._model.name, usage=usage, cost=cost)

    def _picture(self, response: object) -> Generated:
        # The SDK hands on what is not JSON (a proxy's page, say) as a string.
        if not isinstance(response, ImagesResponse):
            raise self._error(Refusal.BAD_ANSWER, "the answer is not the API's")
        usage = _usage(response)
        price = self._model.price
        cost = estimate_cost(price, usage) if price and usage else None
        pictures: object = response.data
        encoded = getattr(pictures[0], "b64_json", None) if isinstance(pictures, list) and pictures else None
        try:
            data = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
        except ValueError:
            data = b""
        if content_type(data) is None:
            raise self._error(Refusal.BAD_ANSWER, "the answer holds no JPEG, PNG or WebP", usage, cost)
        return Generated(data, usage, cost, self._model.name)


def _describe(span: Span, usage: Usage | None, cost: Decimal | None) -> None:
    if usage is not None:
        span.describe(
            {
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
            }
        )
    if cost is not None:
        span.describe({"wearon.cost_usd": float(cost)})


def _date(value: object) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _text(value: object) -> str | None:
    """What the SDK read as a code, type or parameter; None for what is no word of a sensible length."""
    return value if isinstance(value, str) and 0 < len(value) <= 100 else None


def _tokens(part: object, name: str) -> int | None:
    """The figure `name`; None for what is no figure: the SDK hands on whatever the answer holds."""
    value = getattr(part, name, None)
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _usage(response: ImagesResponse) -> Usage | None:
    usage: object = response.usage
    taken, given_back = _tokens(usage, "input_tokens"), _tokens(usage, "output_tokens")
    if taken is None or given_back is None:
        return None
    given = getattr(usage, "input_tokens_details", None)
    made = getattr(usage, "output_tokens_details", None)
    return Usage(
        input_tokens=taken,
        output_tokens=given_back,
        input_text_tokens=_tokens(given, "text_tokens"),
        output_text_tokens=_tokens(made, "text_tokens"),
    )
