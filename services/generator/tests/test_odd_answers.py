"""What the provider, or a program that publishes to Celery, should not send and does."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx2
import pytest
from openai import AsyncOpenAI

from wearon_contracts.errors import ErrorCode
from wearon_contracts.queues import DEAD_LETTER_LIST
from wearon_contracts.tasks import DeadLetter, DeadLetterReason
from wearon_generator.dead_letters import DeadLetters
from wearon_generator.models import DEFAULT_MODEL, MODELS
from wearon_generator.openai_provider import OpenAIProvider, connect_openai
from wearon_generator.prices import Usage
from wearon_generator.provider import Generated, ProviderError
from wearon_generator.refusals import Refusal
from wearon_service_kit.environment import Proxies
from wearon_service_kit.redis_clients import connect_async

MODEL = MODELS[DEFAULT_MODEL]
PICTURE = b"\xff\xd8\xff picture"
DATA = [{"b64_json": base64.b64encode(PICTURE).decode()}]


def asked(answer: Any) -> Generated:
    """What becomes of a 200 with this body."""
    return answered(httpx2.Response(200, json=answer))


def answered(response: httpx2.Response) -> Generated:
    """What becomes of this answer."""

    async def run() -> Generated:
        transport = httpx2.MockTransport(lambda _: response)
        async with AsyncOpenAI(
            api_key="x", http_client=httpx2.AsyncClient(transport=transport), max_retries=0
        ) as client:
            return await OpenAIProvider(client, MODEL, {}).edit([b"x"], "", "somebody")

    return asyncio.run(run())


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"total_tokens": 5},
        {"input_tokens": "3", "output_tokens": "4"},
        {"input_tokens": 3},
        {"input_tokens": -3, "output_tokens": 4},
        {"input_tokens": True, "output_tokens": 4},
        {"input_tokens": 3.5, "output_tokens": 4},
        {"input_tokens": 10**30, "output_tokens": 4},
        "x",
        ["x"],
        7,
    ],
)
def test_a_good_picture_with_odd_usage_is_kept(usage: Any) -> None:
    assert asked({"data": DATA, "usage": usage}) == Generated(PICTURE, None, None, MODEL.name)


@pytest.mark.parametrize("details", [None, "x", [], 5, {}, {"text_tokens": "1", "image_tokens": None}])
def test_details_may_be_missing_or_odd(details: Any) -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": details}
    made = asked({"data": DATA, "usage": usage | {"output_tokens_details": details}})
    assert (made.data, made.usage) == (PICTURE, Usage(3, 4))
    assert made.cost is not None


def test_tokens_whose_kind_is_not_told_are_paid_for_as_image_tokens() -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1000}
    told = {"image_tokens": 100}
    some = asked(
        {"data": DATA, "usage": usage | {"input_tokens_details": told, "output_tokens_details": told}}
    )
    assert some.cost == asked({"data": DATA, "usage": usage}).cost


@pytest.mark.parametrize(
    "data", [["x"], [None], [5], [{"b64_json": 5}], [{"b64_json": "é"}], [[]], "x", {"a": 1}, 5, [], None]
)
def test_an_answer_without_a_picture_is_a_bad_answer(data: Any) -> None:
    with pytest.raises(ProviderError) as caught:
        asked({"data": data, "usage": {"input_tokens": 3, "output_tokens": 4}})
    assert caught.value.code is ErrorCode.PROVIDER_BAD_ANSWER
    assert caught.value.usage == Usage(3, 4)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"<html>", b'{"data":[{"b64_json":"\xff"}]}', b"[" * 100_000, b"9" * 5000]
)
def test_an_answer_that_cannot_be_read_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        answered(httpx2.Response(200, content=body, headers={"Content-Type": "application/json"}))
    assert caught.value.code is ErrorCode.PROVIDER_BAD_ANSWER


def test_a_rate_limit_may_name_the_time_to_come_back() -> None:
    back_at = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    with pytest.raises(ProviderError) as caught:
        answered(httpx2.Response(429, headers={"Retry-After": back_at}))
    assert caught.value.refusal is Refusal.RATE_LIMIT
    assert 50 < (caught.value.retry_after or 0) <= 60


def test_photos_are_sent_to_no_host_that_a_redirect_names() -> None:
    asked_for: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        asked_for.append(head.split()[1])
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = connect_openai(
            "sk-test-key",
            base_url=f"http://127.0.0.1:{port}/v1",
            organization=None,
            project=None,
            proxies=Proxies(),
            timeout_seconds=5,
        )
        async with server, client:
            await OpenAIProvider(client, MODEL, {}).edit([b"x"], "", "somebody")

    with pytest.raises(ProviderError):
        asyncio.run(run())
    assert asked_for == ["/v1/images/edits"]


@pytest.mark.parametrize("message", ["text", ["a"], 5, None, {"prompt": "\ud800"}, {"\udfff": 1}])
def test_dead_letter_keeps_any_message_readable(redis_url: str, message: Any) -> None:
    async def run() -> None:
        redis = connect_async(cast("Any", redis_url), name="test")
        await DeadLetters(redis, "test").add(message, DeadLetterReason.INVALID_TASK, "wrong: all", None)
        (letter,) = await redis.lrange(DEAD_LETTER_LIST, 0, -1)
        assert json.loads(DeadLetter.model_validate_json(letter).raw) == message
        await redis.aclose()

    asyncio.run(run())
