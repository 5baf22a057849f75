"""What people would otherwise run between the list and Celery, to be measured beside the consumer.

    python bridge_alternatives.py plain|reliable COUNT

plain      BRPOP, then `.delay()`: a crash loses the element in hand
reliable   BLMOVE into a list of its own, publish through one open producer, LREM: one element at a time

Both read the JSON and publish it, without validation and without a log line. Prints seconds and CPU seconds
as JSON when COUNT elements are through. The clock starts with the first element.
"""

from __future__ import annotations

import json
import os
import sys
import time

import celery
import redis

from wearon_contracts.queues import CELERY_QUEUE, PROCESS_GENERATION_TASK, TASK_LIST

IN_HAND = "bench:in-hand"

app = celery.Celery("bench", broker=os.environ["REDIS_URL"])
app.conf.task_default_queue = CELERY_QUEUE
app.conf.task_ignore_result = True


@app.task(name=PROCESS_GENERATION_TASK)
def process(task: dict) -> None:
    """Only its name is published."""


def plain(client: redis.Redis) -> None:
    _, element = client.brpop(TASK_LIST)
    process.delay(json.loads(element))


def reliable(client: redis.Redis, producer: object) -> None:
    element = client.blmove(TASK_LIST, IN_HAND, 0, "RIGHT", "LEFT")
    process.apply_async([json.loads(element)], producer=producer)
    client.lrem(IN_HAND, -1, element)


def main(kind: str, count: int) -> None:
    client = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=None)
    with app.producer_pool.acquire(block=True) as producer:
        step = (lambda: plain(client)) if kind == "plain" else (lambda: reliable(client, producer))
        step()
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(count - 1):
            step()
        result = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_started,
            "tasks": count - 1,
        }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
