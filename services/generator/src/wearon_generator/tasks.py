"""The Celery tasks: thin doors to the jobs, which run on the process's event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from celery import Celery, Task
from celery import exceptions as celery_exceptions
from pydantic import BaseModel, ValidationError

from wearon_contracts.queues import CELERY_RETRY_QUEUE, PROCESS_GENERATION_TASK, REJECT_GENERATION_TASK
from wearon_contracts.tasks import Channel, GenerationTask, RejectedTask
from wearon_generator.endings import Ending, Retry, RetryReason
from wearon_generator.foreign_messages import wrong_fields
from wearon_generator.ledger import EARLIER_ATTEMPT
from wearon_generator.metrics import Metrics
from wearon_generator.rejection import Rejections
from wearon_generator.waiting import JobRunner

log = structlog.get_logger()

Model = TypeVar("Model", bound=BaseModel)
RunOnLoop = Callable[[Coroutine[Any, Any, Ending]], Ending]


def register_tasks(
    app: Celery,
    jobs: JobRunner,
    rejections: Rejections,
    metrics: Metrics,
    run_on_loop: RunOnLoop,
    *,
    crash_pause: int,
) -> None:
    """Give `app` its two tasks; a delivery that crashes is tried again after `crash_pause` seconds.

    Each delivery is counted once, however it ends.
    Only a program other than our consumer publishes a payload that is not valid.
    """

    def finish(celery_task: Task, channel: Channel | None, job: Coroutine[Any, Any, Ending]) -> None:
        try:
            ending = run_on_loop(job)
        except Exception:
            log.exception("delivery_crashed")
            ending = Retry(RetryReason.CRASHED, crash_pause)
        metrics.count_delivery(channel, ending)
        _acknowledge_or_retry(celery_task, ending)

    @app.task(name=PROCESS_GENERATION_TASK, bind=True, max_retries=None)  # type: ignore[untyped-decorator]
    def process_generation(self: Task, payload: Any) -> None:
        """Make the picture of one `GenerationTask`."""
        returned = (self.request.delivery_info or {}).get("routing_key") == CELERY_RETRY_QUEUE
        task = _read(GenerationTask, payload)
        if isinstance(task, str):
            finish(self, None, rejections.refuse(payload, task))
            return
        job = jobs.process(task, returned=returned, earlier=payload.get(EARLIER_ATTEMPT))
        finish(self, task.channel, job)

    @app.task(name=REJECT_GENERATION_TASK, bind=True, max_retries=None)  # type: ignore[untyped-decorator]
    def reject_generation(self: Task, payload: Any) -> None:
        """Fail and refund the session of an element that the consumer set aside."""
        rejected = _read(RejectedTask, payload)
        if isinstance(rejected, str):
            finish(self, None, rejections.refuse(payload, rejected))
            return
        finish(self, rejected.channel, rejections.reject_element(rejected))


def _read(model: type[Model], payload: Any) -> Model | str:
    """What the payload says, or which fields are wrong.

    The error itself stays here: the traceback of a crash that comes of it would show the payload.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        return wrong_fields(error)


def _acknowledge_or_retry(celery_task: Task, ending: Ending) -> None:
    """Return, which acknowledges the message, only when the job is settled or published again."""
    if not isinstance(ending, Retry):
        return
    (payload,) = celery_task.request.args
    if ending.attempt is not None:
        payload = {**payload, EARLIER_ATTEMPT: ending.attempt}
    try:
        celery_task.retry(args=[payload], countdown=ending.after_seconds, queue=CELERY_RETRY_QUEUE)
    except celery_exceptions.Retry:
        raise
    except Exception as error:
        # Redis is unavailable (Celery would drop the message then): it stays unacknowledged, and comes back.
        log.warning("not_published_again", reason=type(error).__name__)
        raise celery_exceptions.Reject(reason="not published again", requeue=True) from error
