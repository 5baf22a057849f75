"""A plain Celery app with the two tasks; each execution is noted in the Redis list `executed`.

celery -A stock_worker worker
"""

from __future__ import annotations

import json
import os
from typing import Any

import celery
import redis

from wearon_contracts.queues import CELERY_QUEUE, PROCESS_GENERATION_TASK, REJECT_GENERATION_TASK

app = celery.Celery("stock", broker=os.environ["REDIS_URL"])
app.conf.task_default_queue = CELERY_QUEUE


def process(self: Any, task: dict[str, Any]) -> None:
    _note(PROCESS_GENERATION_TASK, self.request.id, task)


def reject(self: Any, rejected: dict[str, Any]) -> None:
    _note(REJECT_GENERATION_TASK, self.request.id, rejected)


def _note(name: str, task_id: str, argument: dict[str, Any]) -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.rpush("executed", json.dumps([name, task_id, argument]))


app.task(name=PROCESS_GENERATION_TASK, bind=True)(process)
app.task(name=REJECT_GENERATION_TASK, bind=True)(reject)
