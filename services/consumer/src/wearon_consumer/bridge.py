"""The main loop: take a batch, build its Celery messages, hand it on; recover elements of dead consumers."""

from __future__ import annotations

import itertools
import math
import time
from typing import Final

import redis
import structlog

from wearon_consumer.batches import Batch, BatchBuilder
from wearon_consumer.elements import Refusal
from wearon_consumer.inflight import BATCH_ELEMENTS, InFlight, Turn
from wearon_consumer.metrics import Metrics
from wearon_consumer.timing import ConsumerTiming
from wearon_contracts.tasks import GenerationTask
from wearon_service_kit.connection_errors import why_unreachable
from wearon_service_kit.pauses import growing_pause

_NAP_SECONDS: Final = 0.1  # a pause or a wait is made of naps of this length, so that a stop is noticed

_log = structlog.get_logger(__name__)


class Bridge:
    """Runs in one thread. `stop` may be called from a signal handler."""

    def __init__(
        self, inflight: InFlight, builder: BatchBuilder, metrics: Metrics, timing: ConsumerTiming
    ) -> None:
        self._inflight = inflight
        self._builder = builder
        self._timing = timing
        self._metrics = metrics
        self._tickets = itertools.count(1)
        self._batch: Batch | None = None  # taken and not yet known to be handed on
        self._taken_at = 0.0
        self._unreported: Batch | None = None  # handed on and not yet logged
        self._next_recovery = 0.0
        self._invalid_in_a_row = 0
        self._intake_stopped = b""
        self._waiting_in_lanes = 0
        self._last_progress = -math.inf
        self._last_failure = "Redis has not answered yet"
        self._stopping = False

    def stop(self) -> None:
        """Ask `run` to return; it notices within a second."""
        self._stopping = True

    def progresses(self) -> bool:
        """Whether Redis did what the loop asked of it lately (`timing.stalled_after`). From any thread."""
        return time.monotonic() - self._last_progress < self._timing.stalled_after

    def why_stuck(self) -> str | None:
        """Why `progresses` is false, for an operator; None while it is true. From any thread."""
        return None if self.progresses() else self._last_failure

    def run(self) -> None:
        """Bridge until `stop`, then finish the batch and leave nothing in flight. Never raises an error."""
        failures = 0
        while not self._stopping:
            try:
                self._turn()
                failures = 0
            except Exception as error:
                failures += 1
                pause = growing_pause(
                    failures, first=self._timing.first_pause, longest=self._timing.longest_pause
                )
                self._failed(error, failures, pause)
                self._sleep(pause)
        self._shut_down()

    def _turn(self) -> None:
        self._recover_if_due()
        ticket = self._next_ticket()
        elements = self._exchange(ticket)
        if elements:
            self._take(ticket, elements)
            return
        self._report()
        if self._intake_stopped:
            self._sleep(self._timing.wait)
            return
        element = self._wait()
        if element is not None:
            self._take(ticket, [element], awaited=True)

    def _take(self, ticket: str, elements: list[bytes], *, awaited: bool = False) -> None:
        self._taken_at = time.monotonic()
        batch = self._builder.build(ticket, elements, self._invalid_in_a_row)
        batch.load.awaited = awaited
        self._batch = batch

    def _wait(self) -> bytes | None:
        """Return when an element has come (with it, if it was read), or lanes may have to be fed again."""
        while not self._stopping:
            lanes_want_feeding = self._waiting_in_lanes > 0
            seconds = self._timing.wait if lanes_want_feeding else self._timing.idle_wait
            waits_until = time.monotonic() + seconds
            element = self._inflight.wait(seconds, self._look)
            self._progressed()
            if element is not None:
                return element
            if time.monotonic() < waits_until or lanes_want_feeding or not self._inflight.still_idle():
                return None
        return None

    def _look(self) -> float | None:
        """What is done while the loop waits; seconds until it is done again, None to wait no more."""
        if self._stopping:
            return None
        if self._recover_if_due():
            self._progressed()
        return _NAP_SECONDS if self._inflight.recovery_round_done else 0.0

    def _exchange(self, ticket: str, *, room: int = BATCH_ELEMENTS) -> list[bytes]:
        """Hand the batch on, if there is one, and take the next. Log the one before while Redis is busy."""
        batch = self._batch
        load = batch.load if batch else None
        turn = self._inflight.turn(ticket, load, room=room, meanwhile=self._report)
        self._batch = None
        self._progressed()
        self._note_intake(turn)
        if batch and turn.handed_on:
            self._unreported = batch
            self._metrics.bridge_seconds.observe(time.monotonic() - self._taken_at)
        elif batch:
            batch.end_spans(failure="superseded")
            self._metrics.superseded.inc()
            _log.warning("batch_superseded", elements=len(batch.outcomes))
        return turn.elements

    def _note_intake(self, turn: Turn) -> None:
        self._invalid_in_a_row = turn.invalid_in_a_row
        self._waiting_in_lanes = turn.waiting_in_lanes
        self._metrics.refused_in_a_row.set(turn.invalid_in_a_row)
        if bool(turn.intake_stopped) != bool(self._intake_stopped):
            self._intake_stopped = turn.intake_stopped
            if turn.intake_stopped:
                why = turn.intake_stopped.decode(errors="replace")
                _log.error(
                    "intake_stopped",
                    why=why,
                    what_to_do="look at the dead letters, then: wearonctl intake resume",
                )
            else:
                _log.warning("intake_resumed")

    def _next_ticket(self) -> str:
        return str(next(self._tickets))

    def _report(self) -> None:
        """Count and log what was handed on last."""
        batch, self._unreported = self._unreported, None
        if batch is None:
            return
        batch.end_spans()
        self._metrics.received.inc(len(batch.outcomes))
        published = 0
        for outcome in batch.outcomes:
            if isinstance(outcome, GenerationTask):
                published += 1
                _log.info(
                    "task_accepted",
                    request_id=outcome.request_id,
                    session_id=str(outcome.session_id),
                    channel=outcome.channel.value,
                    task_id=outcome.celery_task_id,
                )
            else:
                self._report_refusal(outcome)
        self._metrics.published.inc(published)

    def _report_refusal(self, refusal: Refusal) -> None:
        ids = refusal.ids
        notified = ids.rejection() is not None
        self._metrics.dead_lettered.labels(refusal.reason.value).inc()
        if notified:
            self._metrics.rejections.inc()
        _log.warning(
            "element_dead_lettered",
            reason=refusal.reason.value,
            detail=refusal.detail,
            request_id=ids.request_id,
            session_id=str(ids.session_id) if ids.session_id else None,
            channel=ids.channel.value if ids.channel else None,
            generator_notified=notified,
        )

    def _recover_if_due(self) -> bool:
        """Whether it was."""
        if time.monotonic() < self._next_recovery:
            return False
        for consumer_id, elements in self._inflight.recover_some().items():
            self._metrics.recovered.inc(elements)
            _log.warning("elements_recovered", elements=elements, dead_consumer=consumer_id)
        if self._inflight.recovery_round_done:
            self._next_recovery = time.monotonic() + self._timing.recovery_interval
        return True

    def _progressed(self) -> None:
        self._last_progress = time.monotonic()
        self._metrics.last_progress.set_to_current_time()

    def _failed(self, error: Exception, failures: int, pause: float) -> None:
        self._metrics.loop_errors.inc()
        unavailable = isinstance(error, redis.ConnectionError | redis.TimeoutError)
        self._last_failure = why_unreachable(error) if unavailable else f"{type(error).__name__}: {error}"
        # What Redis says needs no traceback; anything else is a defect of this program.
        unexpected = None if isinstance(error, redis.RedisError) else error
        _log.error(
            "loop_failed",
            error=f"{type(error).__name__}: {error}",
            failures=failures,
            next_try_in_seconds=round(pause, 2),
            exc_info=unexpected,
        )
        self._inflight.forget_connections()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _NAP_SECONDS))

    def _shut_down(self) -> None:
        until = time.monotonic() + self._timing.shutdown
        while True:
            try:
                if self._batch is not None:
                    self._exchange(self._next_ticket(), room=0)
                self._report()
                returned = self._inflight.leave()
            except Exception as error:
                self._failed(error, failures=1, pause=self._timing.first_pause)
                if time.monotonic() >= until:
                    _log.warning(
                        "stopped_without_redis", batch_recovered_after_seconds=self._timing.heartbeat_ttl
                    )
                    return
                time.sleep(self._timing.first_pause)
            else:
                _log.info("consumer_stopped", returned_to_the_list=returned)
                return
