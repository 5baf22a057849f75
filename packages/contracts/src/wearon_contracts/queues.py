"""Names in Redis and Celery that more than one program uses."""

from __future__ import annotations

from typing import Final

TASK_LIST: Final = "wearon:tasks:generation"
"""Redis list the producer LPUSHes to; FIFO means taking from the right."""

DEAD_LETTER_LIST: Final = "wearon:tasks:generation:dead"
"""Redis list of `DeadLetter` elements, newest at the left."""

DEAD_LETTER_BYTES: Final = "wearon:tasks:generation:dead:bytes"
"""About how many bytes `DEAD_LETTER_LIST` holds; counted again before anything is decided by it."""

INVALID_IN_A_ROW: Final = "wearon:tasks:generation:invalid_in_a_row"
"""Number of invalid elements that all consumers together met since the last valid one."""

INTAKE_STOPPED: Final = "wearon:tasks:generation:intake_stopped"
"""While this key exists, no consumer takes elements from `TASK_LIST`. JSON: reason, since, by.

reason is `too_many_invalid` or `dead_letters_full`."""

INFLIGHT_PREFIX: Final = "wearon:tasks:generation:inflight:"
"""Prefix of the per-consumer lists of elements that are taken but not yet handed to Celery."""

CONSUMER_HEARTBEAT_PREFIX: Final = "wearon:consumers:"
"""Prefix of the expiring keys by which a consumer is known to live."""

LANE_PREFIX: Final = "wearon:lane:"
"""Prefix of the lists in which tasks wait for their turn: one for each store (`store:<id>`) and each user
(`user:<id>`), of session ids, the oldest at the right."""

LANE_TURNS: Final = "wearon:lanes:turns"
"""Sorted set of the lanes that take turns, by the virtual time at which their next task is served."""

LANE_CLOCK: Final = "wearon:lanes:clock"
"""Virtual time of the task that was served last."""

LANE_PARKED: Final = "wearon:lanes:parked"
"""Sorted set of the lanes that a cap holds back, by the Unix ms at which they are looked at again."""

LANE_RULES: Final = "wearon:lanes:rules"
"""Hash of JSON by lane: `share`, `in_work`, `per_minute`, each optional. A copy of the table
`generation_lane_rules`, which the elected generator makes and `wearonctl lanes set` writes."""

LANE_NEXT: Final = "wearon:lanes:next"
"""Hash by lane with a rule `per_minute`: the Unix ms before which it starts nothing."""

LANE_IN_WORK_PREFIX: Final = "wearon:lane-in-work:"
"""Prefix of a sorted set for each lane with a rule `in_work`: session ids by the Unix ms of their turn."""

PACE: Final = "wearon:lanes:pace"
"""Hash: how many jobs `started`, how many of them with none waiting behind (`idle`), how many lanes `began`,
`since` when (Unix ms); the same of the window before (`last_…`, of `last_ms`), and when the last one started
(`at`)."""

PER_MINUTE: Final = "wearon:lanes:per_minute"
"""How many jobs the generators may start a minute, all together."""

STORE_SHARE: Final = "wearon:lanes:store_share"
"""How many turns a store takes for one of a user."""

TASKS_KEPT: Final = "wearon:tasks:kept"
"""Hash of Celery messages by session id, from the consumer's check until a generator has started it."""

TASKS_WAITING_PREFIX: Final = "wearon:tasks:waiting:"
"""Prefix of a sorted set for each channel: session ids of the tasks in lanes, by created_at in Unix s."""

TASKS_HANDED: Final = "wearon:tasks:handed"
"""Sorted set of the session ids handed to Celery and not known to be started, by the Unix ms of that."""

TASKS_AHEAD: Final = "wearon:tasks:ahead"
"""How many tasks the generators want to have at hand before they can start them."""

TASK_AGAIN_PREFIX: Final = "wearon:task-again:"
"""Prefix of an expiring key for each session of which a second task went to Celery lately."""

CELERY_QUEUE: Final = "wearon.generation"
"""The Celery queue, which is also the Redis list that the broker keeps it in."""

CELERY_RETRY_QUEUE: Final = "wearon.again"
"""Jobs that have waited once already: retried, recovered, given back. Workers take queues in the order of
their names, so this one is emptied before `CELERY_QUEUE`."""

PROCESS_GENERATION_TASK: Final = "wearon.process_generation"
"""Celery task; one positional argument: a `GenerationTask` as a JSON object."""

REJECT_GENERATION_TASK: Final = "wearon.reject_generation"
"""Celery task; one positional argument: a `RejectedTask` as a JSON object."""

UNACKED_HASH: Final = "wearon:celery:unacked"
UNACKED_INDEX: Final = "wearon:celery:unacked_index"
UNACKED_MUTEX: Final = "wearon:celery:unacked_mutex"
"""Where the Redis broker keeps what workers have taken but not acknowledged."""


SWEEPER_KEY: Final = "wearon:sweeper"
"""Expiring key that names the generator which looks after lost and stuck sessions at the moment."""


def inflight_list(consumer_id: str) -> str:
    """Name of the list in which the consumer `consumer_id` keeps what it has taken."""
    return INFLIGHT_PREFIX + consumer_id


def consumer_heartbeat(consumer_id: str) -> str:
    """Name of the expiring key that shows the consumer `consumer_id` to be alive."""
    return CONSUMER_HEARTBEAT_PREFIX + consumer_id


def lane_of(channel: str, owner_id: object) -> str:
    """Name of the lane in which tasks of this user (b2c) or store (b2b) wait."""
    return f"{'user' if channel == 'b2c' else 'store'}:{owner_id}"
