"""The consumer's in-flight list in Redis: what it has taken and not yet handed on.

Each step is one Lua script, so it happens as a whole or not at all, and each may be repeated after a lost
answer. A consumer owns its in-flight list as long as its heartbeat key stands. The key expires by itself; its
value names the batch being worked on by a ticket, and the last one that was handed on.

  turn      1. only if the heartbeat still names the batch: pushes what was made of it to Celery and to the
               dead letters and removes its elements from the list
            2. names the next batch in the heartbeat, fills the list up from the task list and returns what is
               in it
  recover   only while there is no heartbeat: puts the list back where it came from, in its old order

So a consumer that was paused past its heartbeat either still finds its batch untouched, or is refused because
another one may have recovered the elements: nothing is lost and nothing is published twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from wearon_consumer.celery_messages import binding, binding_keys
from wearon_consumer.timing import ConsumerTiming
from wearon_contracts.queues import (
    CELERY_QUEUE,
    DEAD_LETTER_LIST,
    INFLIGHT_PREFIX,
    TASK_LIST,
    consumer_heartbeat,
    inflight_list,
)

BATCH_ELEMENTS: Final = 100
BATCH_BYTES: Final = 1024 * 1024
"""A batch ends with the element that reaches this size, so that huge elements come one at a time."""
_SCAN_KEYS: Final = 1000

# Sent as EVAL, not EVALSHA: a restarted server has forgotten scripts, and beside a batch it costs nothing.
_TURN: Final = """
-- KEYS task list, in-flight list, heartbeat, Celery queue, dead letters, two binding sets
-- ARGV heartbeat ms, next ticket, most elements, most bytes, binding,
--      ticket to hand on or '', its elements, messages for Celery, dead letters (one a line)
local function push(list, lines)
  local from = 1
  while from <= #lines do
    local to = string.find(lines, '\\n', from, true) or #lines + 1
    redis.call('LPUSH', list, string.sub(lines, from, to - 1))
    from = to + 1
  end
end
local current, last = string.match(redis.call('GET', KEYS[3]) or '', '(%S+) (%S+)')
local ticket, outcome = ARGV[6], 0
if ticket ~= '' and ticket == last then
  outcome = 1
elseif ticket ~= '' and ticket == current then
  -- A key of the wrong type raises here, before anything is written: scripts are not rolled back.
  redis.call('LLEN', KEYS[4])
  redis.call('LLEN', KEYS[5])
  redis.call('SADD', KEYS[6], ARGV[5])
  redis.call('SADD', KEYS[7], ARGV[5])
  push(KEYS[4], ARGV[8])
  push(KEYS[5], ARGV[9])
  -- From the right, where the oldest are: a blocking pop given up by us may still add one at the left.
  redis.call('LTRIM', KEYS[2], 0, -1 - tonumber(ARGV[7]))
  outcome, last = 1, ticket
end
redis.call('SET', KEYS[3], ARGV[2] .. ' ' .. (last or '-'), 'PX', ARGV[1])
local answer, bytes = {outcome}, 0
local held = redis.call('LRANGE', KEYS[2], 0, -1)
for i = #held, 1, -1 do
  answer[#answer + 1] = held[i]
  bytes = bytes + #held[i]
end
while #answer <= tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  local element = redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
  if not element then break end
  answer[#answer + 1] = element
  bytes = bytes + #element
end
return answer
"""

_RECOVER: Final = """
-- KEYS task list, in-flight list, heartbeat
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local recovered = 0
while redis.call('LMOVE', KEYS[2], KEYS[1], 'LEFT', 'RIGHT') do recovered = recovered + 1 end
return recovered
"""


@dataclass(slots=True)
class Load:
    """Messages and dead letters to push in place of the oldest `elements` in flight, taken under `ticket`."""

    ticket: str
    elements: int
    messages: Sequence[str]
    letters: Sequence[str]


@dataclass(slots=True)
class Turn:
    """`handed_on`: the load is on its way. If not, the heartbeat had ended, others may have its elements.

    `elements`: all that is now in flight, oldest first.
    """

    handed_on: bool
    elements: list[bytes]


class InFlight:
    """One consumer's share of the queue. All methods raise redis.RedisError, and may then be repeated."""

    def __init__(self, client: redis.Redis, consumer_id: str, timing: ConsumerTiming) -> None:
        """`client` must allow for blocking commands of `timing.wait` seconds."""
        self._client = client
        self._timing = timing
        self.consumer_id: Final = consumer_id
        self.name: Final = inflight_list(consumer_id)
        self._heartbeat = consumer_heartbeat(consumer_id)
        self._scan_cursor = 0

    def turn(
        self,
        ticket: str,
        load: Load | None = None,
        *,
        room: int = BATCH_ELEMENTS,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Turn:
        """Hand `load` on, if given, and take the next batch, of at most `room` elements, under `ticket`.

        Renews the heartbeat. `meanwhile` is called while Redis is at work.
        """
        keys = [
            TASK_LIST,
            self.name,
            self._heartbeat,
            CELERY_QUEUE,
            DEAD_LETTER_LIST,
            *binding_keys(CELERY_QUEUE),
        ]
        heartbeat_ms = round(self._timing.heartbeat_ttl * 1000)
        arguments: list[str | int] = [heartbeat_ms, ticket, room, BATCH_BYTES, binding(CELERY_QUEUE)]
        if load is None:
            arguments += ["", 0, "", ""]
        else:
            # Two long arguments are packed, sent and parsed faster than hundreds. JSON holds no bare newline.
            arguments += [load.ticket, load.elements, "\n".join(load.messages), "\n".join(load.letters)]
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("EVAL", _TURN, len(keys), *keys, *arguments)  # type: ignore[no-untyped-call]
            meanwhile()
            handed_on, *elements = connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            # Its answer may still be on the way.
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            pool.release(connection)
        return Turn(bool(handed_on), elements)

    def wait(self) -> bool:
        """Wait at most `timing.wait` seconds for an element; returns whether one has come in flight."""
        element = self._client.blmove(TASK_LIST, self.name, self._timing.wait, "RIGHT", "LEFT")
        return element is not None

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
            count: Any = self._client.eval(_RECOVER, 3, TASK_LIST, name, heartbeat)
            if count:
                recovered[consumer_id] = count
        return recovered

    @property
    def recovery_round_done(self) -> bool:
        return self._scan_cursor == 0

    def forget_connections(self) -> None:
        """Connect again next time: a server that was demoted or replaced may still answer on the old ones."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def leave(self) -> int:
        """End the heartbeat and put back what is still in flight. Returns how many elements that were."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.delete(self._heartbeat)
            pipeline.eval(_RECOVER, 3, TASK_LIST, self.name, self._heartbeat)
            return int(pipeline.execute()[1])
