"""The consumer's in-flight list in Redis: what it has taken and not yet handed on.

Every step that changes more than one key is a Lua script, so it happens as a whole or not at all, and every
script may be repeated after a lost answer. A consumer owns its in-flight list as long as its heartbeat key
stands. The key expires by itself, and its value is the ticket of the batch being worked on:

  take      sets heartbeat := ticket, fills the list up from the task list and returns all that is in it
  hand_on   only while heartbeat == ticket: pushes what was made of the batch, removes the batch from the
            list, sets heartbeat := "done " + ticket
  recover   only while there is no heartbeat: puts the list back where it came from, in its old order

So a consumer that was paused past its heartbeat either still finds its batch untouched, or its `hand_on` is
refused because another one may have recovered the elements: nothing is lost and nothing is published twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

import redis

from wearon_consumer.celery_messages import binding, binding_keys
from wearon_contracts.queues import (
    CELERY_QUEUE,
    DEAD_LETTER_LIST,
    INFLIGHT_PREFIX,
    TASK_LIST,
    consumer_heartbeat,
    inflight_list,
)

HEARTBEAT_MS: Final = 10_000
"""A consumer that has not been heard of for so long is taken for dead."""
WAIT_SECONDS: Final = 1
"""Longest blocking pop, and so the longest time until a stop is noticed."""
BATCH_ELEMENTS: Final = 100
BATCH_BYTES: Final = 1024 * 1024
"""A batch ends with the element that reaches this size, so that huge elements come one at a time."""
_SCAN_KEYS: Final = 1000

_TAKE: Final = """
-- KEYS task list, in-flight list, heartbeat; ARGV ticket, heartbeat ms, most elements, most bytes
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
local batch, bytes = {}, 0
local held = redis.call('LRANGE', KEYS[2], 0, -1)
for i = #held, 1, -1 do
  batch[#batch + 1] = held[i]
  bytes = bytes + #held[i]
end
while #batch < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  local element = redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
  if not element then break end
  batch[#batch + 1] = element
  bytes = bytes + #element
end
return batch
"""

_HAND_ON: Final = """
-- KEYS in-flight list, heartbeat, Celery queue, dead letters, two binding sets
-- ARGV ticket, heartbeat ms, elements in the batch, binding, messages, then messages and dead letters
local held = redis.call('GET', KEYS[2])
if held == 'done ' .. ARGV[1] then return 1 end
if held ~= ARGV[1] then return 0 end
-- A key of the wrong type raises here, before anything is written: scripts are not rolled back.
redis.call('LLEN', KEYS[3])
redis.call('LLEN', KEYS[4])
redis.call('SADD', KEYS[5], ARGV[4])
redis.call('SADD', KEYS[6], ARGV[4])
local letters = 6 + tonumber(ARGV[5])
for i = 6, letters - 1 do redis.call('LPUSH', KEYS[3], ARGV[i]) end
for i = letters, #ARGV do redis.call('LPUSH', KEYS[4], ARGV[i]) end
-- From the right, where the oldest are: a blocking pop given up by us may still add one at the left.
redis.call('LTRIM', KEYS[1], 0, -1 - tonumber(ARGV[3]))
redis.call('SET', KEYS[2], 'done ' .. ARGV[1], 'PX', ARGV[2])
return 1
"""

_RECOVER: Final = """
-- KEYS task list, in-flight list, heartbeat
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local recovered = 0
while redis.call('LMOVE', KEYS[2], KEYS[1], 'LEFT', 'RIGHT') do recovered = recovered + 1 end
return recovered
"""


class HandOn(Enum):
    """What became of a batch: on its way, or no longer ours because the heartbeat had ended."""

    DONE = 1
    SUPERSEDED = 0


class InFlight:
    """One consumer's share of the queue. All methods raise redis.RedisError, and may then be repeated."""

    def __init__(self, client: redis.Redis, consumer_id: str) -> None:
        """`client` must allow for blocking commands of `WAIT_SECONDS`."""
        self._client = client
        self.consumer_id: Final = consumer_id
        self.name: Final = inflight_list(consumer_id)
        self._heartbeat = consumer_heartbeat(consumer_id)
        self._scan_cursor = 0

    def take(self, ticket: str) -> list[bytes]:
        """Everything in flight, oldest first, after filling up to a batch; kept until handed on.

        Tells all others that this consumer lives, with `ticket` as the name of the batch.
        """
        elements: list[bytes] = self._run(
            _TAKE,
            [TASK_LIST, self.name, self._heartbeat],
            [ticket, HEARTBEAT_MS, BATCH_ELEMENTS, BATCH_BYTES],
        )
        return elements

    def wait(self) -> None:
        """Return when an element has come in flight, or else after WAIT_SECONDS."""
        self._client.blmove(TASK_LIST, self.name, WAIT_SECONDS, "RIGHT", "LEFT")

    def hand_on(self, ticket: str, elements: int, messages: Sequence[str], letters: Sequence[str]) -> HandOn:
        """Push `messages` to Celery and `letters` to the dead letters, and let go of the oldest `elements`.

        `ticket` is that of the `take` which returned them.
        """
        answer = self._run(
            _HAND_ON,
            [self.name, self._heartbeat, CELERY_QUEUE, DEAD_LETTER_LIST, *binding_keys(CELERY_QUEUE)],
            [ticket, HEARTBEAT_MS, elements, binding(CELERY_QUEUE), len(messages), *messages, *letters],
        )
        return HandOn(answer)

    def recover_some(self) -> dict[str, int]:
        """Put back what consumers without a heartbeat had taken: how many elements, by consumer id.

        Looks at one page of the key space; `recovery_round_done` tells when the last one was seen.
        """
        page: tuple[int, list[Any]] = self._client.scan(
            self._scan_cursor, match=f"{INFLIGHT_PREFIX}*", count=_SCAN_KEYS, _type="LIST"
        )
        self._scan_cursor, lists = page
        recovered = {}
        for name in lists:
            consumer_id = name.decode(errors="surrogateescape").removeprefix(INFLIGHT_PREFIX)
            heartbeat = consumer_heartbeat(consumer_id).encode(errors="surrogateescape")
            count = self._run(_RECOVER, [TASK_LIST, name, heartbeat], [])
            if count:
                recovered[consumer_id] = count
        return recovered

    @property
    def recovery_round_done(self) -> bool:
        return self._scan_cursor == 0

    def forget_connections(self) -> None:
        """Connect anew next time: a server that was demoted or replaced may still answer on the old ones."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def leave(self) -> int:
        """What is still in flight goes back, the heartbeat ends. Returns how many went back."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.delete(self._heartbeat)
            pipeline.eval(_RECOVER, 3, TASK_LIST, self.name, self._heartbeat)
            return int(pipeline.execute()[1])

    def _run(self, script: str, keys: Sequence[str | bytes], arguments: Sequence[str | int]) -> Any:
        # EVAL, not EVALSHA: a restarted server has forgotten the scripts, and sending one costs nothing
        # beside the batch.
        return self._client.eval(script, len(keys), *keys, *arguments)
