"""Every row of the error table, on a running consumer and generator: session, refund, log and metrics.

All try-ons of the table run at the same time, each with what goes wrong for it alone; the tests then look at
them one by one. Where the credit comes from makes a difference, so what fails is ordered by every kind of
payer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import pytest
from tests.integration.tryons import PAYERS, Payer, Samples, TryOn, TryOns, events_of

from wearon_contracts.errors import ErrorCode, sentence
from wearon_local.app.next_app import SAMPLE_ACCESSORY, SAMPLE_GARMENT
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import Stack

pytestmark = pytest.mark.slow  # starts services and waits for provider and storage to time out

E = ErrorCode
PROVIDER_TIMEOUT: Final = 5
"""OPENAI_TIMEOUT_SECONDS: far above what the stand-in takes, so that only a hanging call reaches it."""

TOO_LARGE: Final = {
    "statusCode": "413",
    "error": "Payload too large",
    "message": "The object exceeded the maximum allowed size",
}
WRONG_TYPE: Final = {
    "statusCode": "415",
    "error": "invalid_mime_type",
    "message": "mime type image/jpeg is not supported",
}

Arrange = Callable[[TryOns, TryOn], None]
Urls = Callable[[TryOns], list[str]]


@dataclass(frozen=True)
class Row:
    """What happens to a try-on, and how it must end.

    `said`: words for the provider's stand-in. `urls`: the input images, if others than the samples.
    `arrange`: sets traps for this try-on's requests. `code` and `image`: why it fails, None if it completes.
    `calls`: of the provider. `attempts`: claims. `log`: events that must be in its log, in this order.
    """

    name: str
    said: str = ""
    urls: Urls | None = None
    arrange: Arrange | None = None
    code: ErrorCode | None = None
    image: str = ""
    calls: int = 1
    attempts: int = 1
    log: tuple[str, ...] = ()
    payers: tuple[Payer, ...] = ("user",)

    @property
    def message(self) -> str:
        assert self.code is not None
        return sentence(self.code, self.image or "pictures")


def at_rpc(function: str, action: str, *, times: int = 1, **fault: Any) -> Arrange:
    """A trap for the try-on's calls of a function of the ledger."""

    def arrange(tryons: TryOns, tryon: TryOn) -> None:
        path = f"/rpc/generation_{function}$"
        tryons.stack.gateway.inject(action, path=path, contains=tryon.id, times=times, **fault)  # type: ignore[arg-type]

    return arrange


def at_result(path: str, action: str, *, times: int = 1, **fault: Any) -> Arrange:
    """A trap for what the try-on does with its result in Storage; `path` before the bucket's name."""

    def arrange(tryons: TryOns, tryon: TryOn) -> None:
        where = f"{path}/images/.*{tryon.id}"
        tryons.stack.gateway.inject(action, path=where, method="POST", times=times, **fault)  # type: ignore[arg-type]

    return arrange


def own_input(tryons: TryOns) -> list[str]:
    """The person under a path of its own, so that a trap can be set for it alone."""
    return [tryons.app.sign(tryons.app.upload(f"uploads/{uuid4()}.jpg", SAMPLE_GARMENT)), tryons.inputs()[1]]


def at_input(action: str, *, times: int = 1, **fault: Any) -> Arrange:
    """A trap for the download of the first image."""

    def arrange(tryons: TryOns, tryon: TryOn) -> None:
        path = tryon.job.task["image_urls"][0].partition("?")[0].rpartition("/")[2]
        tryons.stack.gateway.inject(action, path=path, method="GET", times=times, **fault)  # type: ignore[arg-type]

    return arrange


def at_provider(action: str, *, times: int = 1, **fault: Any) -> Arrange:
    """A trap for the try-on's calls of the provider."""

    def arrange(tryons: TryOns, tryon: TryOn) -> None:
        prompt = tryon.job.task["prompt"]
        tryons.stack.openai.inject(action, contains=prompt, times=times, **fault)  # type: ignore[arg-type]

    return arrange


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def uploaded(data: bytes, content_type: str) -> Urls:
    """The second image is this file."""

    def urls(tryons: TryOns) -> list[str]:
        path = tryons.app.upload(f"uploads/{uuid4()}", data, content_type=content_type)
        return [tryons.inputs()[0], tryons.app.sign(path)]

    return urls


def missing(tryons: TryOns) -> list[str]:
    return [tryons.inputs()[0], tryons.app.sign(f"uploads/{uuid4()}/gone.jpg")]


def expired(tryons: TryOns) -> list[str]:
    path = tryons.app.upload(f"uploads/{uuid4()}.jpg", SAMPLE_GARMENT)
    return [tryons.app.sign(path, seconds=-60), tryons.inputs()[1]]


def third(url: str) -> Urls:
    """The third image, the first accessory, is at this address."""
    return lambda tryons: [*tryons.inputs(), url]


UNAVAILABLE: Final = "supabase_unavailable"
JPEG: Final = SAMPLE_ACCESSORY.read_bytes()
FAILED: Final = ("job_held", "session_processing", "session_failed")
RETRIED: Final = ("provider_called", "provider_retry", "provider_called", "session_completed")
REQUEUED: Final = ("provider_called", "session_requeued", "job_held", "session_processing", "provider_called")

ROWS: Final = (
    # Those that take longest come first.
    Row("hangs once", said="hang_once", calls=2, log=RETRIED),
    Row("hangs for good", said="hang", code=E.PROVIDER_UNAVAILABLE, calls=3, log=FAILED),
    Row("nothing wrong", payers=PAYERS, log=("task_accepted", "job_held", "images_ready",
        "session_processing", "provider_called", "provider_answered", "result_stored", "session_completed")),
    # 429 rate limit
    Row("rate limit once", said="rate_limit_once", calls=2, attempts=2,
        log=(*REQUEUED, "session_completed"), payers=("user", "store")),
    Row("rate limit once with Retry-After", said="rate_limit_once=2", calls=2, attempts=2,
        log=(*REQUEUED, "session_completed")),
    Row("rate limit twice", said="rate_limit=1", code=E.RATE_LIMITED, calls=2, attempts=2,
        log=(*REQUEUED, "session_failed"), payers=PAYERS),
    # 400 moderation
    Row("moderation", said="moderation_blocked", code=E.MODERATION_BLOCKED, log=FAILED, payers=PAYERS),
    # 5xx, network
    Row("5xx twice", said="500_twice", calls=3, log=RETRIED),
    Row("5xx as a page", said="html_500_once", calls=2, log=RETRIED),
    Row("5xx for good", said="503", code=E.PROVIDER_UNAVAILABLE, calls=3, log=FAILED, payers=PAYERS),
    Row("connection closed once", said="drop_once", calls=2, log=RETRIED),
    Row("connection reset once", said="reset_once", calls=2, log=RETRIED),
    Row("connection closed for good", said="drop", code=E.PROVIDER_UNAVAILABLE, calls=3, log=FAILED),
    # Answers that are no picture
    Row("broken base64", said="bad_base64", code=E.PROVIDER_BAD_ANSWER, log=FAILED, payers=PAYERS),
    Row("not a picture", said="bad_picture", code=E.PROVIDER_BAD_ANSWER, log=FAILED),
    Row("answer without data", said="no_data", code=E.PROVIDER_BAD_ANSWER, log=FAILED),
    Row("answer is a page", arrange=at_provider("status", status=200, body="<html>hello</html>"), calls=0,
        code=E.PROVIDER_BAD_ANSWER, log=FAILED),
    Row("answer is cut off", arrange=at_provider("status", status=200, body='{"data": [{"b64_js',
        headers={"content-type": "application/json"}), calls=0, code=E.PROVIDER_BAD_ANSWER, log=FAILED),
    # Image refused
    Row("image missing", urls=missing, code=E.IMAGE_HTTP_ERROR, image="photo of the garment", calls=0,
        log=FAILED, payers=PAYERS),
    Row("image link expired", urls=expired, code=E.IMAGE_URL_EXPIRED, image="photo of the person", calls=0,
        log=FAILED, payers=PAYERS),
    Row("image on a private address", urls=third("http://10.1.2.3/a.jpg"), code=E.IMAGE_ADDRESS_REFUSED,
        image="photo of accessory 1", calls=0, log=FAILED, payers=PAYERS),
    Row("image on the metadata address", urls=third("http://[::ffff:169.254.169.254]/latest"),
        code=E.IMAGE_ADDRESS_REFUSED, image="photo of accessory 1", calls=0, log=FAILED),
    Row("image on a port", urls=third("http://shop.example:6379/a.jpg"), code=E.IMAGE_PORT_REFUSED,
        image="photo of accessory 1", calls=0, log=FAILED),
    Row("image is a page", urls=uploaded(b"<html></html>", "image/jpeg"), code=E.IMAGE_WEB_PAGE,
        image="photo of the garment", calls=0, log=FAILED),
    Row("image is a drawing", urls=uploaded(b"<svg/>", "image/svg+xml"), code=E.IMAGE_SVG,
        image="photo of the garment", calls=0, log=FAILED),
    Row("image is an iPhone's", urls=uploaded(HEIC, "image/jpeg"), code=E.IMAGE_HEIC,
        image="photo of the garment", calls=0, log=FAILED),
    Row("image cut off", urls=uploaded(JPEG[: len(JPEG) // 2], "image/jpeg"), code=E.IMAGE_DAMAGED,
        image="photo of the garment", calls=0, log=FAILED, payers=PAYERS),
    # Image unreachable on the trusted origin
    Row("image 503 on our Storage", urls=own_input, arrange=at_input("status", status=503, times=2),
        log=("image_unreachable", "image_unreachable", "session_completed")),
    Row("image 429 on our Storage", urls=own_input,
        arrange=at_input("status", status=429, headers={"retry-after": "1"}),
        log=("image_unreachable", "session_completed")),
    Row("image connection closed by our Storage", urls=own_input, arrange=at_input("drop"),
        log=("image_unreachable", "session_completed")),
    # Supabase away: nothing done, or done and the answer lost
    Row("hold away", arrange=at_rpc("hold", "status", status=503, times=2),
        log=(UNAVAILABLE, UNAVAILABLE, "job_held", "session_completed")),
    Row("hold lost", arrange=at_rpc("hold", "lose_answer"), log=(UNAVAILABLE, "job_held")),
    Row("claim away", arrange=at_rpc("claim", "drop", times=2),
        log=("job_held", UNAVAILABLE, UNAVAILABLE, "session_processing", "session_completed")),
    Row("claim lost", arrange=at_rpc("claim", "lose_answer"), log=(UNAVAILABLE, "session_processing")),
    Row("usage away", arrange=at_rpc("record_usage", "status", status=500, times=2),
        log=(UNAVAILABLE, UNAVAILABLE, "provider_answered", "session_completed")),
    Row("usage lost", arrange=at_rpc("record_usage", "lose_answer"), log=(UNAVAILABLE,)),
    Row("check away", arrange=at_rpc("check", "reset"), log=(UNAVAILABLE, "session_completed")),
    Row("upload away", arrange=at_result("/object", "status", status=503, times=2),
        log=("provider_answered", UNAVAILABLE, UNAVAILABLE, "result_stored", "session_completed")),
    Row("upload too large for the bucket", arrange=at_result("/object", "status", status=400, body=TOO_LARGE),
        code=E.RESULT_NOT_STORED, payers=("user", "store")),
    Row("upload of a type that the bucket refuses",
        arrange=at_result("/object", "status", status=400, body=WRONG_TYPE), code=E.RESULT_NOT_STORED),
    Row("upload lost", arrange=at_result("/object", "lose_answer"), log=(UNAVAILABLE, "result_stored")),
    Row("upload closed", arrange=at_result("/object", "drop"), log=(UNAVAILABLE, "result_stored")),
    Row("sign away", arrange=at_result("/object/sign", "status", status=502, body="<html>", times=2),
        log=("result_stored", UNAVAILABLE, UNAVAILABLE, "session_completed")),
    Row("sign lost", arrange=at_result("/object/sign", "lose_answer"), log=(UNAVAILABLE,)),
    Row("sign answered with a page", arrange=at_result("/object/sign", "status", status=200, body="<html>"),
        log=("result_stored", UNAVAILABLE, "session_completed")),
    Row("complete away", arrange=at_rpc("complete", "status", status=503, times=2),
        log=("result_stored", UNAVAILABLE, UNAVAILABLE, "session_completed"), payers=PAYERS),
    Row("complete lost", arrange=at_rpc("complete", "lose_answer"),
        log=(UNAVAILABLE, "session_completed"), payers=PAYERS),
    Row("complete answered with a page", arrange=at_rpc("complete", "status", status=200, body="<html>"),
        log=(UNAVAILABLE, "session_completed")),
    Row("fail away", said="moderation_blocked", arrange=at_rpc("fail", "drop", times=2),
        code=E.MODERATION_BLOCKED, log=(UNAVAILABLE, UNAVAILABLE, "session_failed"), payers=PAYERS),
    Row("fail lost", said="moderation_blocked", arrange=at_rpc("fail", "lose_answer"),
        code=E.MODERATION_BLOCKED, log=(UNAVAILABLE, "session_failed"), payers=PAYERS),
    Row("requeue away", said="rate_limit_once=1", arrange=at_rpc("requeue", "status", status=503),
        calls=2, attempts=2, log=(UNAVAILABLE, "session_requeued", "session_completed")),
    Row("requeue lost", said="rate_limit=1", arrange=at_rpc("requeue", "lose_answer"), code=E.RATE_LIMITED,
        calls=2, attempts=2, log=(UNAVAILABLE, "session_requeued", "session_failed"), payers=PAYERS),
)  # fmt: skip

CASES: Final = [(row, payer) for row in ROWS for payer in row.payers]
EACH_CASE = pytest.mark.parametrize(
    ("row", "payer"), CASES, ids=[f"{row.name}, {payer} pays" for row, payer in CASES]
)


@dataclass(frozen=True)
class Table:
    """The running table: services and try-ons."""

    tryons: TryOns
    consumer: Service
    generator: Service
    ordered: dict[tuple[str, Payer], TryOn]

    def settled(self, row: Row, payer: Payer) -> TryOn:
        tryon = self.ordered[row.name, payer]
        self.tryons.wait_settled(tryon, timeout=120)
        return tryon


@pytest.fixture(scope="module")
def table(stack: Stack) -> Iterator[Table]:
    consumer = stack.start_service("consumer")
    generator = stack.start_service(
        "generator", {"GENERATIONS_PER_MINUTE": "1500", "OPENAI_TIMEOUT_SECONDS": str(PROVIDER_TIMEOUT)}
    )
    tryons = TryOns(stack)
    ordered = {}
    for row, payer in CASES:
        said = f"[[standin:{row.said}]]" if row.said else ""
        tryon = tryons.make(payer, prompt=said, urls=row.urls(tryons) if row.urls else None)
        if row.arrange is not None:
            row.arrange(tryons, tryon)
        tryons.push(tryon)
        ordered[row.name, payer] = tryon
    yield Table(tryons, consumer, generator, ordered)


@EACH_CASE
def test_refund_and_row_are_as_the_table_says(table: Table, row: Row, payer: Payer) -> None:
    tryon = table.settled(row, payer)
    if row.code is None:
        table.tryons.assert_completed(tryon, calls=row.calls)
        assert len(table.tryons.usage(tryon)) == 1
    else:
        table.tryons.assert_failed(tryon, row.code, row.message, attempts=row.attempts)
        assert len(table.tryons.calls(tryon)) == row.calls
    back = ["processing", "queued"] * (row.attempts - 1)
    end = "completed" if row.code is None else "failed"
    assert table.tryons.statuses(tryon) == [*back, "processing", end]


@EACH_CASE
def test_log_tells_the_story_by_request_id(table: Table, row: Row, payer: Payer) -> None:
    tryon = table.settled(row, payer)
    last = "session_completed" if row.code is None else "session_failed"
    events = wait_for_event(table, tryon, last)
    names = iter(event["event"] for event in events)
    assert all(name in names for name in row.log), ([event["event"] for event in events], row.log)
    for event in events:
        assert event["session_id"] == tryon.id
        assert event["channel"] == tryon.job.channel
    if row.code is not None:
        assert (events[-1]["code"], events[-1]["refund"]) == (
            row.code.value,
            "overage" if payer == "overage" else "refunded",
        )


def wait_for_event(table: Table, tryon: TryOn, name: str) -> list[dict[str, Any]]:
    """All of its log lines, once the one that ends them is there: the row is written a moment before."""

    def ended() -> list[dict[str, Any]]:
        events = events_of(tryon, table.consumer, table.generator)
        return events if any(event["event"] == name for event in events) else []

    return table.generator.process.wait_until(ended, timeout=5, what=f"{name} in the log")


def test_metrics_count_what_happened(table: Table) -> None:
    table.tryons.wait_settled(*table.ordered.values(), timeout=120)
    for (row, _), tryon in zip(CASES, table.ordered.values(), strict=True):
        wait_for_event(table, tryon, "session_completed" if row.code is None else "session_failed")
    deliveries = sum(row.attempts for row, _ in CASES)
    wait_until(
        lambda: Samples(table.generator.metrics()).total("jobs_total") == deliveries,
        timeout=10,
        what="all deliveries are counted",
    )
    seen = Samples(table.generator.metrics())
    failed = [(row, payer) for row, payer in CASES if row.code is not None]
    assert seen.by("failures_total", "code") == Counter(row.code for row, _ in failed)
    assert seen.by("refunds_total", "state") == Counter(
        "overage" if payer == "overage" else "refunded" for _, payer in failed
    )
    assert seen.by("jobs_total", "outcome") == Counter(
        completed=len(CASES) - len(failed),
        failed=len(failed),
        rate_limited=sum(row.attempts - 1 for row, _ in CASES),
    )
    assert seen.by("image_errors_total", "code") == Counter(row.code for row, _ in failed if row.image)
    assert seen.total("flagged_total") == sum(payer == "overage" for _, payer in failed)
    calls = [r for r in table.tryons.stack.openai.requests() if r.path == "/v1/images/edits"]
    assert seen.total("provider_calls_total") == len(calls)
    assert seen.total("provider_seconds_count") == len(calls)
    struck = sum(fault["struck"] for fault in table.tryons.stack.gateway.faults() if fault["method"] != "GET")
    # A picture that the bucket refuses is no sign of an absent Supabase: each was refused once.
    refused = sum(row.code is E.RESULT_NOT_STORED for row, _ in failed)
    assert seen.total("supabase_unavailable_total") == struck - refused > 0
    paid = table.tryons.app.rows("select sum(cost_usd) as usd, count(*) as answers from generation_usage")[0]
    assert seen.total("cost_usd_total") == pytest.approx(float(paid["usd"]))
    assert (seen.total("jobs_waiting"), seen.total("jobs_working")) == (0, 0)
