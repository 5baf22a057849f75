"""More photos than can be measured, hosts that never answer, clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wearon_contracts.errors import ErrorCode
from wearon_contracts.sizing import (
    EstimateBodyRequest,
    EstimateBodyResponse,
    EstimateWithoutPhotoRequest,
)
from wearon_service_kit.images.fetch import ImageFetcher
from wearon_sizing.app import MOST_AT_ONCE, RefusedError, Sizer
from wearon_sizing.measuring import Method
from wearon_sizing.metrics import Metrics
from wearon_sizing.middleware import BODY_SECONDS
from wearon_sizing.pose import Landmarker
from wearon_sizing.settings import SizingSettings
from wearon_sizing.workers import BoundedThreads, QueueFullError, Workers

from .studio import SITTERS, ImageHost, Service, body_of, serving, wait_until


def calculations() -> BoundedThreads:
    """Where estimates without a photo are made, as in the service."""
    return BoundedThreads("without-photo", 1, MOST_AT_ONCE - 1)


def test_the_surplus_is_turned_away_at_once(
    settings_for: Callable[..., SizingSettings], image_host: ImageHost
) -> None:
    sitter = SITTERS[0]
    url = image_host.put(sitter.file, sitter.jpeg)
    with serving(settings_for(sizing_workers=1, sizing_queue=1)) as service:

        def ask(_number: int) -> tuple[int, float, str | None]:
            start = time.monotonic()
            response = service.estimate(url, sitter.height)
            return response.status_code, time.monotonic() - start, response.headers.get("Retry-After")

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(ask, range(72)))
        assert {status for status, _, _ in answers} == {200, 503}
        assert all(wait for status, _, wait in answers if status == 503)
        assert max(seconds for _, seconds, _ in answers) < 3
        assert service.estimate(url, sitter.height).status_code == 200
        assert service.counter("wearon_sizing_queue_depth") == 0


@pytest.mark.slow
def test_a_body_that_stalls_is_answered_408_and_cut(service: Service) -> None:
    address = service.client.base_url.host, service.client.base_url.port
    head = b"POST /estimate-body HTTP/1.1\r\nHost: sizing\r\nContent-Length: 60\r\n"
    head += b"Content-Type: application/json\r\n\r\n"
    start = time.monotonic()
    with socket.create_connection(address, timeout=15) as stalled:
        stalled.sendall(head + b'{"height_cm"')
        answer = b""
        # Until the service closes the connection.
        while part := stalled.recv(65536):
            answer += part
    assert BODY_SECONDS <= time.monotonic() - start < BODY_SECONDS + 5
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


def test_health_answers_while_everybody_waits(service: Service, image_host: ImageHost) -> None:
    sitter = SITTERS[0]
    url = image_host.put(sitter.file, sitter.jpeg)
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            service.estimate(url, sitter.height)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(keep_asking)
        seconds = []
        try:
            for _ in range(30):
                start = time.monotonic()
                assert service.client.get("/health").status_code == 200
                seconds.append(time.monotonic() - start)
        finally:
            stop.set()
    assert sorted(seconds)[len(seconds) // 2] < 0.2


def test_a_host_that_never_answers_costs_less_than_the_client_waits(
    service: Service, image_host: ImageHost
) -> None:
    image_host.gates["/never.jpg"] = threading.Event()
    start = time.monotonic()
    response = service.estimate(f"{image_host.origin}/never.jpg")
    assert response.status_code == 400
    assert body_of(response)["code"] == "image_timeout"
    assert time.monotonic() - start < 4.5


def test_a_client_that_has_gone_costs_no_detection(service: Service, image_host: ImageHost) -> None:
    gate = image_host.gates["/left.jpg"] = threading.Event()
    url = image_host.put("left.jpg", SITTERS[0].jpeg)
    detections = service.counter('wearon_sizing_step_seconds_count{step="detect"}')
    abandoned = service.counter("wearon_sizing_abandoned_total")
    host, port = service.url.removeprefix("http://").split(":")
    body = json.dumps({"image_url": url, "height_cm": 170}).encode()
    head = f"POST /estimate-body HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: "/left.jpg" in image_host.asked, 10)
    wait_until(lambda: service.counter("wearon_sizing_abandoned_total") == abandoned + 1, 10)
    gate.set()
    # A request after it has been measured, so the abandoned one would have been by now.
    sitter = SITTERS[1]
    assert service.estimate(image_host.put(sitter.file, sitter.jpeg), sitter.height).status_code == 200
    assert service.counter('wearon_sizing_step_seconds_count{step="detect"}') == detections + 1


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_invalid_request(service: Service) -> None:
    invalid = service.counter('wearon_sizing_refusals_total{code="request_invalid"}')
    abandoned = service.counter("wearon_sizing_abandoned_total")
    address = service.client.base_url.host, service.client.base_url.port
    head = b"POST /estimate-body HTTP/1.1\r\nHost: sizing\r\nContent-Length: 60\r\n\r\n"
    with socket.create_connection(address, timeout=15) as connection:
        connection.sendall(head + b'{"height_cm"')
    wait_until(lambda: service.counter("wearon_sizing_abandoned_total") == abandoned + 1, 10)
    assert service.counter('wearon_sizing_refusals_total{code="request_invalid"}') == invalid


def test_a_request_past_its_budget_stops(model_path: Path, method: Method, image_host: ImageHost) -> None:
    url = image_host.put("late.jpg", SITTERS[0].jpeg)
    gate = image_host.gates["/late.jpg"] = threading.Event()

    async def ask() -> tuple[ErrorCode, Metrics]:
        workers, metrics = Workers([Landmarker(model_path)], 1), Metrics()
        fetcher = ImageFetcher(trusted_origins=[image_host.origin])
        sizer = Sizer(fetcher, workers, calculations(), method, metrics, budget_seconds=0.2)
        with pytest.raises(RefusedError) as refusal:
            await sizer.estimate(EstimateBodyRequest(image_url=url, height_cm=170.0))
        gate.set()
        workers.close()
        return refusal.value.code, metrics

    code, metrics = asyncio.run(ask())
    assert code is ErrorCode.BUDGET_EXCEEDED
    sampled = metrics.registry.get_sample_value("wearon_sizing_step_seconds_count", {"step": "detect"})
    assert sampled is None


def test_a_side_photo_counts_as_a_second_download(
    landmarker: Landmarker, method: Method, image_host: ImageHost
) -> None:
    url = image_host.put("held.jpg", SITTERS[0].jpeg)
    gate = image_host.gates["/held.jpg"] = threading.Event()

    async def refused() -> list[ErrorCode]:
        fetcher = ImageFetcher(trusted_origins=[image_host.origin])
        workers = Workers([landmarker], 100)
        sizer = Sizer(fetcher, workers, calculations(), method, Metrics(), budget_seconds=60)
        body = EstimateBodyRequest(image_url=url, side_image_url=url, height_cm=170.0)
        asked = [asyncio.ensure_future(sizer.estimate(body)) for _ in range(MOST_AT_ONCE)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        gate.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        errors = [task.exception() for task in done]
        return [error.code for error in errors if isinstance(error, RefusedError)]

    assert asyncio.run(refused()) == [ErrorCode.OVERLOADED] * (MOST_AT_ONCE // 2)


def test_a_photo_that_waits_for_a_landmarker_takes_nobody_the_place_for_a_download(
    landmarker: Landmarker, method: Method, image_host: ImageHost
) -> None:
    sitter = SITTERS[0]
    url = image_host.put("queued.jpg", sitter.jpeg)

    async def scenario() -> list[EstimateBodyResponse]:
        fetcher = ImageFetcher(trusted_origins=[image_host.origin], max_concurrent=MOST_AT_ONCE)
        workers, busy = Workers([landmarker], 2 * MOST_AT_ONCE), threading.Event()
        sizer = Sizer(fetcher, workers, calculations(), method, Metrics(), budget_seconds=60)
        held = asyncio.ensure_future(workers.run(lambda _: busy.wait(60)))
        body = EstimateBodyRequest(image_url=url, height_cm=sitter.height)

        asked = []
        for number in range(MOST_AT_ONCE + 1):
            asked.append(asyncio.ensure_future(sizer.estimate(body)))
            await asyncio.to_thread(wait_until, lambda count=number + 1: workers.waiting() == count, 30)
        busy.set()
        await held
        return await asyncio.gather(*asked)

    assert len(asyncio.run(scenario())) == MOST_AT_ONCE + 1


def test_refusals_do_not_wait_long_for_a_fallback(method: Method) -> None:
    body = EstimateBodyRequest(image_url="https://shop.example/a.jpg", height_cm=170.0)

    async def scenario() -> list[RefusedError]:
        threads, busy = calculations(), threading.Event()
        sizer = Sizer(ImageFetcher(), Workers([], 1), threads, method, Metrics())

        async def refused(count: int) -> list[RefusedError]:
            found = await asyncio.gather(
                *[sizer.estimate(body) for _ in range(count)], return_exceptions=True
            )
            return [one for one in found if isinstance(one, RefusedError)]

        held = asyncio.ensure_future(threads.run(lambda: busy.wait(60)))
        await asyncio.sleep(0)
        # More than may wait; those that may are told without one when the time is over.
        found = await refused(MOST_AT_ONCE + 5)
        assert not threads.full
        busy.set()
        await held
        return found + await refused(1)

    found = asyncio.run(scenario())
    assert {error.code for error in found} == {ErrorCode.MODEL_NOT_LOADED}
    assert [error.fallback is not None for error in found] == [False] * (MOST_AT_ONCE + 5) + [True]


def test_calculations_of_clients_that_left_do_not_run_beside_others() -> None:
    async def scenario() -> int:
        threads, release, running = calculations(), threading.Event(), threading.Semaphore(0)

        def work() -> None:
            running.release()
            release.wait(10)

        for _ in range(5):
            left = asyncio.ensure_future(threads.run(work))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait([left])
        # The first may have begun before its client left; the others waited, and are dropped.
        release.set()
        await threads.run(lambda: None)
        begun = 0
        while running.acquire(blocking=False):
            begun += 1
        threads.close()
        return begun

    assert asyncio.run(scenario()) <= 1


def test_the_surplus_without_photos_is_turned_away_too(method: Method) -> None:
    body = EstimateWithoutPhotoRequest(height_cm=170.0)

    async def answers() -> list[object]:
        fetcher = ImageFetcher()
        threads, busy = calculations(), threading.Event()
        sizer = Sizer(fetcher, Workers([], 1), threads, method, Metrics())
        held = asyncio.ensure_future(threads.run(lambda: busy.wait(60)))
        await asyncio.sleep(0)
        asked = [asyncio.ensure_future(sizer.estimate_without_photo(body)) for _ in range(MOST_AT_ONCE + 4)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        busy.set()
        await held
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(answers())
    waited = MOST_AT_ONCE - 1
    assert [isinstance(one, EstimateBodyResponse) for one in found] == [True] * waited + [False] * 5
    assert {one.code for one in found if isinstance(one, RefusedError)} == {ErrorCode.OVERLOADED}


def test_a_job_that_is_cancelled_in_the_queue_never_runs(landmarker: Landmarker) -> None:
    async def scenario() -> list[str]:
        done: list[str] = []
        release = threading.Event()
        workers = Workers([landmarker], 2)

        def job(name: str) -> Callable[[Landmarker], None]:
            def work(_landmarker: Landmarker) -> None:
                release.wait(10)
                done.append(name)

            return work

        running, waiting, other = (
            asyncio.ensure_future(workers.run(job(name))) for name in ("running", "waiting", "other")
        )
        await asyncio.sleep(0)
        assert workers.full
        assert workers.waiting() == 2
        with pytest.raises(QueueFullError):
            await workers.run(job("surplus"))
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not workers.full
        release.set()
        await asyncio.gather(running, other)
        return done

    assert asyncio.run(scenario()) == ["running", "other"]
