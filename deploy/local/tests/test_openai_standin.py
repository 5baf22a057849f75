"""The stand-in as OpenAI's own client sees it."""

from __future__ import annotations

import base64
import hashlib
import io
import time
from datetime import date

import httpx
import openai
import pytest
from PIL import Image

from wearon_local.app.next_app import SAMPLE_ACCESSORY, SAMPLE_GARMENT, SAMPLE_PERSON
from wearon_local.stack import Stack

MODEL = "gpt-image-2.6-sunburst"


def pictures(count: int = 2) -> list[tuple[str, bytes, str]]:
    names = ["model.jpg", "image_1.jpg", "image_2.jpg"]
    files = [SAMPLE_PERSON, SAMPLE_GARMENT, SAMPLE_ACCESSORY]
    return [(n, f.read_bytes(), "image/jpeg") for n, f in zip(names, files, strict=True)][:count]


@pytest.fixture
def client(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(api_key=stack.openai_api_key, base_url=stack.openai_url, max_retries=0, timeout=10)


def edit(client: openai.OpenAI, prompt: str = "Dress them", count: int = 2) -> openai.types.ImagesResponse:
    return client.images.edit(
        model=MODEL,
        image=pictures(count),
        prompt=prompt,
        size="1024x1536",
        quality="medium",
        n=1,
        output_format="jpeg",
    )


def test_the_answer_is_a_jpeg_that_differs_from_the_inputs(client: openai.OpenAI) -> None:
    answer = edit(client, count=3)
    assert answer.data is not None
    data = base64.b64decode(answer.data[0].b64_json or "")
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (1024, 1536))
    assert data not in {p[1] for p in pictures(3)}
    usage = answer.usage
    assert usage is not None
    assert usage.input_tokens == (
        usage.input_tokens_details.text_tokens + usage.input_tokens_details.image_tokens
    )
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens == 1584


def test_inputs_show_in_the_picture(client: openai.OpenAI) -> None:
    def picture(count: int) -> bytes:
        answer = edit(client, count=count)
        assert answer.data is not None
        return base64.b64decode(answer.data[0].b64_json or "")

    alone, dressed = (Image.open(io.BytesIO(picture(n))).convert("RGB") for n in (1, 2))
    shirt = (230, 85, 52)
    width, height = dressed.size

    def near_the_shirts_colour(image: Image.Image) -> float:
        chest = image.crop((width // 3, height // 4, 2 * width // 3, height // 2)).resize((30, 30))
        points = list(chest.get_flattened_data())
        return sum(sum(abs(a - b) for a, b in zip(p, shirt, strict=True)) < 150 for p in points) / len(points)

    assert near_the_shirts_colour(dressed) > 0.4
    assert near_the_shirts_colour(alone) < 0.05


def test_two_prompts_give_different_bytes_and_one_prompt_the_same(client: openai.OpenAI) -> None:
    answers = [edit(client, prompt).data for prompt in ("one", "two", "one")]
    first, second, again = (a[0].b64_json for a in answers if a)
    assert first != second
    assert first == again


def test_calls_are_recorded(stack: Stack, client: openai.OpenAI) -> None:
    answer = edit(client, "session 42").data
    assert answer is not None
    [call] = stack.openai.calls(contains="session 42")
    assert [i["name"] for i in call["images"]] == ["model.jpg", "image_1.jpg"]
    assert {i["format"] for i in call["images"]} == {"JPEG"}
    assert call["parameters"]["size"] == "1024x1536"
    assert (call["outcome"], call["status"]) == ("ok", 200)
    data = base64.b64decode(answer[0].b64_json or "")
    assert call["result_sha256"] == hashlib.sha256(data).hexdigest()
    assert stack.openai_api_key not in str(call)


@pytest.mark.parametrize(
    ("word", "error", "code"),
    [
        ("moderation_blocked", openai.BadRequestError, "moderation_blocked"),
        ("rate_limit", openai.RateLimitError, "rate_limit_exceeded"),
        ("insufficient_quota", openai.RateLimitError, "insufficient_quota"),
        ("500", openai.InternalServerError, None),
        ("503", openai.InternalServerError, None),
        ("html_500", openai.InternalServerError, None),
        ("drop", openai.APIConnectionError, None),
        ("reset", openai.APIConnectionError, None),
    ],
)
def test_errors_look_like_the_real_ones(
    stack: Stack, client: openai.OpenAI, word: str, error: type[openai.APIError], code: str | None
) -> None:
    with pytest.raises(error) as raised:
        edit(client, f"Dress them [[standin:{word}]]")
    assert raised.value.code == code
    assert [c["outcome"] for c in stack.openai.calls()] == [word]


def test_retry_after_is_sent_when_a_number_is_given(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        edit(client, "[[standin:rate_limit=3]]")
    assert raised.value.response.headers["retry-after"] == "3"
    with pytest.raises(openai.RateLimitError) as raised:
        edit(client, "[[standin:rate_limit]]")
    assert "retry-after" not in raised.value.response.headers


def test_once_strikes_only_the_first_call_of_a_prompt(client: openai.OpenAI) -> None:
    for prompt in ("a [[standin:500_once]]", "b [[standin:500_once]]"):
        with pytest.raises(openai.InternalServerError):
            edit(client, prompt)
        assert edit(client, prompt).data
    with pytest.raises(openai.InternalServerError):
        edit(client, "[[standin:502_twice]]")
    with pytest.raises(openai.InternalServerError):
        edit(client, "[[standin:502_twice]]")
    assert edit(client, "[[standin:502_twice]]").data


def test_the_prompt_can_ask_for_unusable_answers(client: openai.OpenAI) -> None:
    bad = edit(client, "[[standin:bad_base64]]").data
    assert bad is not None
    with pytest.raises(ValueError):
        base64.b64decode(bad[0].b64_json or "", validate=True)
    no_picture = edit(client, "[[standin:bad_picture]]").data
    assert no_picture is not None
    assert not base64.b64decode(no_picture[0].b64_json or "", validate=True).startswith(b"\xff\xd8")
    assert edit(client, "[[standin:no_data]]").data == []


def test_slow_and_latency_take_their_time(stack: Stack, client: openai.OpenAI) -> None:
    started = time.monotonic()
    edit(client, "[[standin:slow=0.3]]")
    assert time.monotonic() - started >= 0.3
    stack.openai.set_latency(0.4)
    started = time.monotonic()
    edit(client)
    assert time.monotonic() - started >= 0.4


def test_a_client_that_gives_up_is_recorded(stack: Stack, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        edit(client.with_options(timeout=0.3), "[[standin:hang]]")
    with pytest.raises(openai.APITimeoutError):
        edit(client.with_options(timeout=0.3), "[[standin:slow=60]]")
    assert edit(client, "after").data
    assert [c["outcome"] for c in stack.openai.calls()] == ["hang", "client_gone", "ok"]


def test_modes_for_all_calls_or_for_some(stack: Stack, client: openai.OpenAI) -> None:
    stack.openai.set_mode("rate_limit=1", times=1)
    with pytest.raises(openai.RateLimitError):
        edit(client)
    assert edit(client).data
    stack.openai.set_mode("500", contains="unlucky")
    assert edit(client, "lucky").data
    with pytest.raises(openai.InternalServerError):
        edit(client, "unlucky")
    stack.openai.clear_modes()
    assert edit(client, "unlucky").data
    with pytest.raises(ValueError, match="unknown mode"):
        stack.openai.set_mode("explode")


def test_what_the_real_api_refuses_is_refused(stack: Stack, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as wrong_key:
        edit(openai.OpenAI(api_key="sk-wrong", base_url=stack.openai_url, max_retries=0))
    assert wrong_key.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as no_prompt:
        edit(client, "")
    assert no_prompt.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as wrong_type:
        client.images.edit(model=MODEL, image=[("a.txt", b"hello", "text/plain")], prompt="x")
    assert wrong_type.value.code == "unsupported_file_mimetype"
    with pytest.raises(openai.BadRequestError) as no_picture:
        client.images.edit(model=MODEL, image=[("a.jpg", b"hello", "image/jpeg")], prompt="x")
    assert no_picture.value.code == "invalid_image_file"
    with pytest.raises(openai.BadRequestError) as wrong_size:
        client.images.edit(model=MODEL, image=pictures(), prompt="x", size="256x256")
    assert wrong_size.value.param == "size"
    assert {c["outcome"] for c in stack.openai.calls()} == {"refused"}


def test_a_field_that_the_model_does_not_take_is_refused_by_name(stack: Stack, client: openai.OpenAI) -> None:
    stack.openai.set_today(date(2026, 11, 30))  # gpt-image-1.5 is served until then
    with pytest.raises(openai.BadRequestError) as unknown:
        client.images.edit(model=MODEL, image=pictures(), prompt="x", input_fidelity="high")
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "input_fidelity")
    older = client.images.edit(
        model="gpt-image-1.5", image=pictures(), prompt="x", size="1024x1536", input_fidelity="high"
    )
    assert older.data


def test_a_model_is_served_until_the_day_it_is_switched_off(stack: Stack, client: openai.OpenAI) -> None:
    stack.openai.set_today(date(2026, 11, 30))
    told = client.models.retrieve("gpt-image-1.5")
    assert told.to_dict()["shutdown_date"] == "2026-12-01"
    stack.openai.set_today(date(2026, 12, 1))
    with pytest.raises(openai.NotFoundError) as gone:
        client.models.retrieve("gpt-image-1.5")
    assert gone.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.images.edit(model="gpt-image-1.5", image=pictures(), prompt="x")
    stack.openai.set_today(None)
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("word", "size", "colours"), [("tiny", (256, 384), 2), ("blank", (1024, 1536), 1), ("cut_off", None, 0)]
)
def test_pictures_that_nobody_can_use(
    client: openai.OpenAI, word: str, size: tuple[int, int] | None, colours: int
) -> None:
    answer = edit(client, f"[[standin:{word}]]").data
    assert answer is not None
    data = base64.b64decode(answer[0].b64_json or "", validate=True)
    with Image.open(io.BytesIO(data)) as image:
        if size is None:
            with pytest.raises(OSError, match="truncated"):
                image.load()
        else:
            assert image.size == size
            assert (len(image.getcolors(image.width * image.height) or []) > 1) is (colours > 1)


def test_a_new_picture_is_drawn_quickly_and_a_known_one_at_once(stack: Stack, client: openai.OpenAI) -> None:
    edit(client, "draw it", count=2)
    edit(client, "draw it again", count=2)
    first, second = stack.openai.calls()
    assert second["finished_at"] - second["started_at"] < 0.5
    assert first["images"] == second["images"]


def test_faults_strike_the_stand_in_too(stack: Stack) -> None:
    stack.openai.inject("status", path="/v1/", status=502)
    assert httpx.post(f"{stack.openai_url}/images/edits").status_code == 502
    assert httpx.post(f"{stack.openai_url}/images/edits").status_code == 401
