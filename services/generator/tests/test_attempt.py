"""One attempt: every ending, every verdict of the ledger, every failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from services.generator.tests.house import House, in_house
from services.generator.tests.in_memory import PICTURE

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.results import result_path
from wearon_contracts.tasks import Channel, GenerationTask
from wearon_generator.attempt import LONGEST_RATE_LIMIT_PAUSE, rate_limit_delay
from wearon_generator.endings import Done, Ending, Outcome, Retry, RetryReason
from wearon_generator.image_processor import InputImageError
from wearon_generator.prices import Usage
from wearon_generator.provider import ProviderError
from wearon_generator.refusals import Refusal

COMPLETED = Done(Outcome.COMPLETED)
FAILED = Done(Outcome.FAILED)
LOST = Done(Outcome.LOST)


def path_of(task: GenerationTask) -> str:
    return result_path(task.channel, task.owner_id, task.session_id)


def assert_failed(house: House, task: GenerationTask, code: ErrorCode, message: str | None = None) -> None:
    row, session = house.database.row(task), house.database.session(task)
    assert (row.outcome, row.error_code, row.refund) == ("failed", code.value, "refunded")
    assert (session.status, session.error_message) == ("failed", message or sentence(code))
    assert house.metric("failures_total", code=code.value) == 1
    assert house.metric("refunds_total", state="refunded") == 1


@pytest.mark.parametrize("channel", list(Channel))
def test_job_is_completed_with_its_picture_stored_unchanged(channel: Channel) -> None:
    async def test(house: House) -> None:
        task = house.order(channel)
        assert await house.run(task) == COMPLETED
        row, session = house.database.row(task), house.database.session(task)
        assert house.bucket.objects[path_of(task)] == (PICTURE, "image/jpeg")
        assert (row.outcome, row.object_path, row.attempt) == ("completed", path_of(task), 1)
        assert (session.status, session.url) == (
            "completed",
            f"https://shop.example/sign/{path_of(task)}?for=21600",
        )
        (usage,) = house.database.usage.values()
        assert (usage["input_tokens"], usage["output_tokens"], usage["attempt"]) == (100, 2000, 1)
        assert house.breaker.events == ["works"]
        assert (house.metric("jobs_working"), house.metric("jobs_waiting")) == (0, 0)

    in_house(test)


@pytest.mark.parametrize(
    ("refusal", "event"),
    [
        (Refusal.MODERATION, "works"),
        (Refusal.PROMPT, None),
        (Refusal.BAD_ANSWER, "works"),
        (Refusal.NO_MONEY, "no_money"),
        (Refusal.KEY_REFUSED, "key_refused"),
        (Refusal.REQUEST_REFUSED, None),
    ],
)
def test_final_refusal_fails_the_session_and_tells_the_breaker(refusal: Refusal, event: str | None) -> None:
    async def test(house: House) -> None:
        error = ProviderError(refusal, "status 400", usage=Usage(7, 0))
        house.provider.script.append(error)
        task = house.order()
        assert await house.run(task) == FAILED
        assert_failed(house, task, error.code, sentence(error.code, "pictures"))
        assert house.breaker.events == ([event] if event else [])
        assert [usage["input_tokens"] for usage in house.database.usage.values()] == [7]

    in_house(test)


def test_refused_picture_is_named_to_the_shopper() -> None:
    async def test(house: House) -> None:
        house.provider.script.append(ProviderError(Refusal.PICTURE, "invalid_image", picture=1))
        task = house.order()
        assert await house.run(task) == FAILED
        code = ErrorCode.PROVIDER_REFUSED
        assert_failed(house, task, code, sentence(code, "photo of the garment"))

    in_house(test)


def test_server_errors_are_called_again_with_a_slot_each_until_calls_are_used_up() -> None:
    async def test(house: House) -> None:
        house.provider.script += [ProviderError(Refusal.SERVER_ERROR, "status 500") for _ in range(3)]
        task = house.order()
        assert await house.run(task) == FAILED
        assert_failed(house, task, ErrorCode.PROVIDER_UNAVAILABLE)
        assert len(house.provider.called_at) == 3
        assert house.slots.reserved >= 3
        assert house.breaker.events == []

    in_house(test)


def test_job_without_an_answer_fails_at_its_deadline() -> None:
    async def test(house: House) -> None:
        house.provider.latency = 1000
        task = house.order()
        began = asyncio.get_running_loop().time()
        assert await house.run(task) == FAILED
        assert asyncio.get_running_loop().time() - began == pytest.approx(300, abs=3)
        assert_failed(house, task, ErrorCode.DEADLINE_EXCEEDED)

    in_house(test)


def test_timeout_of_something_else_is_not_taken_for_the_deadline() -> None:
    async def test(house: House) -> None:
        house.provider.script.append(TimeoutError("of a library"))
        task = house.order()
        assert await house.run(task) == FAILED
        assert_failed(house, task, ErrorCode.INTERNAL_ERROR)

    in_house(test)


def test_unexpected_error_fails_the_session_as_internal_error() -> None:
    async def test(house: House) -> None:
        house.provider.script.append(RuntimeError("a bug"))
        task = house.order()
        assert await house.run(task) == FAILED
        assert_failed(house, task, ErrorCode.INTERNAL_ERROR)

    in_house(test)


def test_unusable_picture_fails_the_session_without_slot_or_call() -> None:
    async def test(house: House) -> None:
        house.images.raises = InputImageError(ErrorCode.IMAGE_EMPTY, 0, "0 bytes")
        task = house.order()
        assert await house.run(task) == FAILED
        code = ErrorCode.IMAGE_EMPTY
        assert_failed(house, task, code, sentence(code, "photo of the person"))
        assert (house.slots.reserved, house.provider.called_at) == (0, [])

    in_house(test)


def test_picture_refused_by_the_bucket_fails_the_session() -> None:
    async def test(house: House) -> None:
        house.bucket.refuses = True
        task = house.order()
        assert await house.run(task) == FAILED
        assert_failed(house, task, ErrorCode.RESULT_NOT_STORED)

    in_house(test)


# ---------------------------------------------------------------------------------------- rate limit


def test_rate_limited_job_goes_back_and_completes_when_it_is_due() -> None:
    async def test(house: House) -> None:
        house.provider.script.append(ProviderError(Refusal.RATE_LIMIT, "status 429", retry_after=40))
        task = house.order()
        assert await house.run(task) == Retry(RetryReason.RATE_LIMITED, 40)
        assert house.database.session(task).status == "queued"
        # It comes back at once, and waits for the time that the database keeps.
        assert await house.run(task, returned=True) == COMPLETED
        first, second = house.provider.called_at
        assert second - first >= 40
        assert house.database.row(task).attempt == 2

    in_house(test)


def test_job_that_is_rate_limited_again_fails() -> None:
    async def test(house: House) -> None:
        limited = ProviderError(Refusal.RATE_LIMIT, "status 429", retry_after=1)
        house.provider.script += [limited, limited]
        task = house.order()
        assert isinstance(await house.run(task), Retry)
        assert await house.run(task, returned=True) == FAILED
        assert_failed(house, task, ErrorCode.RATE_LIMITED)

    in_house(test)


@pytest.mark.parametrize(
    ("wanted", "delay"),
    [
        *((None, 10), (2.4, 2), (0.0, 1), (-5.0, 1), (1e300, LONGEST_RATE_LIMIT_PAUSE)),
        *((float("inf"), LONGEST_RATE_LIMIT_PAUSE), (float("-inf"), 1), (float("nan"), 10)),
    ],
)
def test_rate_limited_job_waits_a_sensible_time(wanted: float | None, delay: int) -> None:
    assert rate_limit_delay(wanted) == delay


# ---------------------------------------------------------------------------------- provider's pause


def test_job_refused_like_every_other_waits_with_them() -> None:
    async def test(house: House) -> None:
        house.provider.script.append(ProviderError(Refusal.NO_MONEY, "status 429"))
        house.breaker.fails = False
        task = house.order()
        assert await house.run(task) == Retry(RetryReason.PROVIDER_PAUSE)
        row = house.database.row(task)
        assert (row.state, row.holder, row.postponed) == ("waiting", None, 1)
        assert house.database.session(task).status == "processing"
        assert await house.run(task, returned=True) == COMPLETED

    in_house(test)


def test_job_claimed_before_the_pause_makes_no_further_call() -> None:
    async def test(house: House) -> None:
        def refuse() -> Exception:
            house.breaker.reason = "no_money"
            return ProviderError(Refusal.SERVER_ERROR, "status 500")

        house.provider.script.append(refuse)
        assert await house.run(house.order()) == Retry(RetryReason.PROVIDER_PAUSE)
        assert len(house.provider.called_at) == 1

    in_house(test)


# ---------------------------------------------------------------------------------- earlier attempts


async def crash_in_attempt(house: House, task: GenerationTask, *, stored: bool = False) -> None:
    """Leave the session as a process that died while working on it."""
    job = house.begin(task)
    calls = len(house.provider.called_at)
    await house.until(lambda: len(house.provider.called_at) > calls)
    job.cancel()
    await asyncio.wait({job})
    row = house.database.row(task)
    row.lease_expires_at = asyncio.get_running_loop().time()
    if stored:
        house.bucket.objects[path_of(task)] = (PICTURE, "image/jpeg")


def test_picture_stored_by_an_earlier_attempt_is_not_paid_for_twice() -> None:
    async def test(house: House) -> None:
        task = house.order()
        await crash_in_attempt(house, task, stored=True)
        calls = len(house.provider.called_at)
        assert await house.run(task) == COMPLETED
        assert len(house.provider.called_at) == calls
        assert house.database.row(task).attempt == 2

    in_house(test)


def test_task_that_was_begun_too_often_fails_without_another_call() -> None:
    async def test(house: House) -> None:
        task = house.order()
        for _ in range(5):
            await crash_in_attempt(house, task)
        calls = len(house.provider.called_at)
        assert await house.run(task) == FAILED
        assert_failed(house, task, ErrorCode.ATTEMPTS_EXHAUSTED)
        assert len(house.provider.called_at) == calls

    in_house(test)


# ---------------------------------------------------------------------------------- Supabase


LEDGER_CALLS = ["hold", "claim", "check", "record_usage", "complete"]
BUCKET_CALLS = ["upload", "sign"]
ODD_ANSWERS: list[Any] = [None, [], "ok", {}, 7, {"verdict": "an unknown one"}]


@pytest.mark.parametrize("kind", ["unavailable", "lost"])
@pytest.mark.parametrize("call", [*LEDGER_CALLS, *BUCKET_CALLS])
def test_failed_or_lost_call_of_supabase_is_repeated(call: str, kind: str) -> None:
    async def test(house: House) -> None:
        where = house.bucket if call in BUCKET_CALLS else house.database
        where.faults.add(call, kind, times=3)
        task = house.order()
        assert await house.run(task) == COMPLETED
        assert len(house.provider.called_at) == 1
        assert where.faults.calls.count(call) == 4
        assert house.metric("supabase_unavailable_total") >= 2

    in_house(test)


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=repr)
@pytest.mark.parametrize("call", LEDGER_CALLS)
def test_answer_of_another_shape_is_repeated_and_loses_no_paid_picture(call: str, answer: Any) -> None:
    async def test(house: House) -> None:
        house.database.faults.add(call, "answer", answer=answer)
        task = house.order()
        assert await house.run(task) == COMPLETED
        assert len(house.provider.called_at) == 1
        assert house.database.row(task).refund is None

    in_house(test)


@pytest.mark.parametrize("kind", ["unavailable", "lost"])
@pytest.mark.parametrize("call", ["fail", "requeue"])
def test_settlement_whose_answer_was_lost_is_made_once(call: str, kind: str) -> None:
    async def test(house: House) -> None:
        refusal = Refusal.MODERATION if call == "fail" else Refusal.RATE_LIMIT
        house.provider.script.append(ProviderError(refusal, "arranged"))
        house.database.faults.add(call, kind, times=2)
        ending = await house.run(house.order())
        assert ending == (FAILED if call == "fail" else Retry(RetryReason.RATE_LIMITED, 10))
        assert house.metric("leases_lost_total") == 0

    in_house(test)


@pytest.mark.parametrize(
    ("call", "refusal", "ending"),
    [
        ("complete", None, COMPLETED),
        ("fail", Refusal.MODERATION, FAILED),
        ("requeue", Refusal.RATE_LIMIT, Retry(RetryReason.RATE_LIMITED, 10)),
    ],
)
def test_lost_answer_followed_by_a_renewal_is_not_a_lost_lease(
    call: str, refusal: Refusal | None, ending: Ending
) -> None:
    """The renewal no longer finds the holder, because the session is settled or put back."""

    async def test(house: House) -> None:
        if refusal:
            house.provider.script.append(ProviderError(refusal, "arranged"))
        house.database.faults.add(call, "lost")
        # Longer than a renewal interval.
        house.database.faults.add(call, "hang", seconds=15)
        assert await house.run(house.order()) == ending
        assert house.metric("leases_lost_total") == 0

    in_house(test)


def test_picture_waits_in_memory_while_storage_is_unavailable_for_long() -> None:
    async def test(house: House) -> None:
        house.bucket.faults.add("upload", "unavailable", times=200)
        task = house.order()
        assert await house.run(task) == COMPLETED
        assert asyncio.get_running_loop().time() > 400, "beyond the deadline"
        assert len(house.provider.called_at) == 1

    in_house(test)


def test_stopping_process_abandons_a_job_it_cannot_store() -> None:
    async def test(house: House) -> None:
        house.bucket.faults.add("upload", "unavailable", times=1000)
        task = house.order()
        job = house.begin(task)
        await house.until(lambda: "upload" in house.bucket.faults.calls)
        house.generator.stopping.begin()
        assert await job == Done(Outcome.ABANDONED)
        assert asyncio.get_running_loop().time() < 60
        assert house.database.row(task).state == "working", "the ledger brings it back"

    in_house(test)


def test_stopping_process_abandons_a_job_it_cannot_fail() -> None:
    async def test(house: House) -> None:
        house.provider.script.append(ProviderError(Refusal.MODERATION, "arranged"))
        house.database.faults.add("fail", "unavailable", times=1000)
        job = house.begin(house.order())
        await house.until(lambda: "fail" in house.database.faults.calls)
        house.generator.stopping.begin()
        assert await job == Done(Outcome.ABANDONED)

    in_house(test)


# ---------------------------------------------------------------------------------- taken over


def take_over(house: House, task: GenerationTask) -> None:
    """What another replica's hold does once the lease has run out."""
    row = house.database.row(task)
    row.holder, row.state = "another", "waiting"


@pytest.mark.parametrize("call", ["check", "complete", "fail", "requeue", "postpone"])
@pytest.mark.parametrize("how", ["lost", "settled", "gone"])
def test_attempt_that_was_overtaken_changes_nothing_more(call: str, how: str) -> None:
    async def test(house: House) -> None:
        task = house.order()
        refusal = {
            "fail": Refusal.MODERATION,
            "requeue": Refusal.RATE_LIMIT,
            "postpone": Refusal.NO_MONEY,
        }.get(call)
        house.breaker.fails = False

        def overtake() -> ProviderError | None:
            if how == "lost":
                take_over(house, task)
            elif how == "gone":
                house.database.sessions.clear()
            else:
                house.database.session(task).status = "failed"
                house.database.settle_if_overtaken(house.database.row(task))
            return ProviderError(refusal, "arranged") if refusal else None

        if call == "complete":
            house.bucket.faults.add("sign", "after", happens=overtake)
        else:
            house.provider.script.append(overtake)
        assert await house.run(task) == LOST
        assert (path_of(task) in house.bucket.objects) == (call == "complete")
        assert house.metric("leases_lost_total") == 1
        assert house.database.row(task).settled_by in (None, "elsewhere", "gone")

    in_house(test)


def test_no_call_is_made_with_a_lost_lease() -> None:
    async def test(house: House) -> None:
        house.provider.script.append(ProviderError(Refusal.SERVER_ERROR, "status 500"))
        house.provider.latency = 30
        task = house.order()
        job = house.begin(task)
        await house.until(lambda: house.provider.called_at)
        take_over(house, task)
        assert await job == LOST
        assert len(house.provider.called_at) == 1

    in_house(test)


def test_unavailable_supabase_is_not_asked_on_with_a_lost_lease() -> None:
    async def test(house: House) -> None:
        house.bucket.faults.add("upload", "unavailable", times=1000)
        task = house.order()
        job = house.begin(task)
        await house.until(lambda: "upload" in house.bucket.faults.calls)
        take_over(house, task)
        assert await job == LOST
        assert asyncio.get_running_loop().time() < 60

    in_house(test)
