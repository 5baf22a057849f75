"""The main job, from the producer's push to the picture the browser loads."""

from __future__ import annotations

import hashlib
import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from tests.integration.tryons import PAYERS, Payer, TryOn, TryOns

from wearon_contracts.errors import ErrorCode, sentence
from wearon_local.app.next_app import SAMPLE_ACCESSORY, SAMPLE_GARMENT, SAMPLE_PERSON
from wearon_local.stack import Stack

SIX_HOURS = 6 * 3600


def test_services_may_start_before_anything_they_need(stack: Stack) -> None:
    """Nothing orders the processes: each waits for what is missing, says so, and begins by itself."""
    stack.redis.stop()
    stack.gateway.kill()
    consumer, generator = (stack.start_service(name, wait=False) for name in ("consumer", "generator"))
    generator.process.wait_until(lambda: generator.events(event="generator_not_ready"), what="says so")
    assert "Supabase cannot be reached" in generator.events(event="generator_not_ready")[0]["reason"]
    consumer.process.wait_until(lambda: consumer.events(event="loop_failed"), what="says so")
    stack.gateway.start()
    generator.process.wait_until(lambda: "Cannot connect to redis" in generator.process.log(), what="says so")
    for service in (consumer, generator):
        assert not service.ready()
    stack.redis.start()
    for service in (consumer, generator):
        service.wait_ready(timeout=20)
    tryons = TryOns(stack)
    tryon = tryons.order()
    tryons.wait_settled(tryon)
    tryons.assert_completed(tryon)


@pytest.fixture(scope="module")
def tryons(stack: Stack) -> TryOns:
    stack.stop_services()
    stack.start_service("consumer")
    stack.start_service("generator")
    return TryOns(stack)


@pytest.mark.parametrize("payer", PAYERS)
def test_picture_is_stored_as_it_came_and_signed_for_six_hours(tryons: TryOns, payer: Payer) -> None:
    began = time.time()
    tryon = tryons.order(payer)
    (row,) = tryons.wait_settled(tryon)
    tryons.assert_completed(tryon)
    (call,) = tryons.calls(tryon)
    (stored,) = [o for o in tryons.stack.gateway.objects() if o["name"] == tryon.job.result_path]
    assert stored["sha256"] == call["result_sha256"]
    assert (stored["content_type"], stored["writes"]) == ("image/jpeg", 1)
    link = row["generated_image_url"]
    signed = f"{tryons.stack.gateway_url}/storage/v1/object/sign/images"
    assert link.startswith(f"{signed}/{tryon.job.result_path}?token=")
    expires = jwt.decode(link.rpartition("token=")[2], options={"verify_signature": False})["exp"]
    assert began + SIX_HOURS - 1 <= expires <= time.time() + SIX_HOURS + 1
    answer = tryons.app.download(link)
    assert answer.headers["content-type"] == "image/jpeg"
    assert 0 < row["processing_time_ms"] < 1000 * (time.time() - began)
    assert 0 <= (datetime.now(UTC) - row["completed_at"]).total_seconds() < time.time() - began


def test_provider_is_sent_the_images_in_order_by_their_names(tryons: TryOns) -> None:
    pictures = [SAMPLE_PERSON, SAMPLE_GARMENT, SAMPLE_ACCESSORY]
    tryon = tryons.make(urls=[tryons.app.sign(tryons.app.upload(f"uploads/{p.name}", p)) for p in pictures])
    call = the_call(tryons, tryon)
    assert [image["name"] for image in call["images"]] == ["model.jpg", "image_1.jpg", "image_2.jpg"]
    assert {image["content_type"] for image in call["images"]} == {"image/jpeg"}
    assert all(max(image["width"], image["height"]) <= 1024 for image in call["images"])
    wanted = {"model": "gpt-image-2.6-sunburst", "quality": "medium", "size": "1024x1536", "n": "1"}
    assert call["parameters"].items() >= {**wanted, "output_format": "jpeg"}.items()


def test_content_credentials_of_the_answer_survive_byte_for_byte(tryons: TryOns) -> None:
    tryon = tryons.make()
    call = the_call(tryons, tryon)
    delivered = tryons.app.download(tryons.row(tryon)["generated_image_url"]).content
    assert b"jumdc2pa" in delivered
    assert hashlib.sha256(delivered).hexdigest() == call["result_sha256"]


def test_provider_can_tell_people_apart_and_learns_no_id(tryons: TryOns) -> None:
    user, store = tryons.app.create_user(credits=2), tryons.app.create_store(credits=9)
    shopper, other = tryons.app.create_shopper(store), tryons.app.create_shopper(store)
    options: dict[str, Any] = {"image_urls": tryons.inputs(), "prompt": "a coat"}
    jobs = {
        "user": tryons.app.b2c_job(user, **options),
        "user again": tryons.app.b2c_job(user, **options),
        "shopper": tryons.app.b2b_job(store, shopper_email=shopper, **options),
        "shopper again": tryons.app.b2b_job(store, shopper_email=shopper, **options),
        "other shopper": tryons.app.b2b_job(store, shopper_email=other, **options),
        "nobody known": tryons.app.b2b_job(store, **options),
        "nobody known again": tryons.app.b2b_job(store, **options),
    }
    hashes = {}
    for name, job in jobs.items():
        tryons.stack.openai.reset()
        tryons.app.push(job)
        tryons.app.wait_settled(job)
        (call,) = tryons.stack.openai.calls()
        hashes[name] = call["parameters"]["safety_identifier"]
        told = json.dumps({**call, "images": []}).lower()
        assert not any(str(secret) in told for secret in (user, store, job.session_id, shopper, other))
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes.values())
    assert hashes["user"] == hashes["user again"]
    assert hashes["shopper"] == hashes["shopper again"]
    assert len(set(hashes.values())) == len(hashes) - 2


@pytest.mark.parametrize("word", ["cut_off", "tiny", "blank"])
def test_unusable_picture_is_refunded_and_its_tokens_are_recorded(tryons: TryOns, word: str) -> None:
    tryon = tryons.order(prompt=f"[[standin:{word}]]")
    tryons.wait_settled(tryon)
    code = ErrorCode.PROVIDER_BAD_ANSWER
    tryons.assert_failed(tryon, code, sentence(code))
    (usage,) = tryons.usage(tryon)
    assert usage["output_tokens"] > 0
    assert usage["cost_usd"] > 0


def test_flagged_picture_is_named_where_the_provider_tells(tryons: TryOns) -> None:
    tryon = tryons.order(prompt="[[standin:invalid_image]]")
    tryons.wait_settled(tryon)
    code = ErrorCode.PROVIDER_REFUSED
    tryons.assert_failed(tryon, code, sentence(code, "photo of the garment"))


def test_provider_is_given_the_prompt_or_else_the_services_own(tryons: TryOns) -> None:
    own, without = tryons.make(prompt="in the rain"), tryons.make()
    without.job.task["prompt"] = ""
    assert the_call(tryons, own)["prompt"] == own.job.task["prompt"]
    tryons.stack.openai.reset()
    tryons.push(without)
    tryons.wait_settled(without)
    (call,) = tryons.stack.openai.calls()
    assert all(name in call["prompt"] for name in ("model.jpg", "image_1.jpg"))


def test_provider_is_asked_again_after_growing_pauses(tryons: TryOns) -> None:
    """One second and two, each give or take half; the next slot comes at once at this rate."""
    tryon = tryons.order(prompt="[[standin:503]]")
    tryons.wait_settled(tryon)
    first, second, third = (call["started_at"] for call in tryons.calls(tryon))
    assert 0.5 <= second - first < 2.5
    assert 1.0 <= third - second < 4.0


def the_call(tryons: TryOns, tryon: TryOn) -> dict[str, Any]:
    tryons.push(tryon)
    tryons.wait_settled(tryon)
    (call,) = tryons.calls(tryon)
    return call
