"""The consumer's in-flight list in Redis: what it has taken and not yet handed on.

Each step is one Lua script, so it happens as a whole or not at all, and each may be repeated after a lost
answer. A consumer owns its in-flight list as long as its heartbeat key stands. The key expires by itself; its
value names the batch being worked on by a ticket, and the last one that was handed on. It begins with `idle`
while the consumer waits for that batch's first element.

  turn      1. only if the heartbeat still names the batch: puts its tasks into their lanes, its invalid
               elements into the dead letters, and removes its elements from the list
            2. hands tasks from the lanes to Celery, as far as there is room (`wearon_service_kit.lanes`)
            3. names the next batch in the heartbeat, fills the list up from the task list and returns what is
               in it
               An element over 1 MiB is cut to its head there, so that no consumer ever loads it.
               Too many invalid elements in a row, or too many bytes of dead letters, stop the intake of all
               consumers: what is in flight goes back, and nothing is taken until the operator deletes the key
            4. if there is none and nothing waits in lanes, says so in the heartbeat, which then stands longer
  wait      a blocking pop moves one element into the list. It is the batch whose ticket the heartbeat names
               already, so that it can be handed on in the next turn
  recover   only while there is no heartbeat: puts the list back where it came from, in its old order.
            An idle consumer that has something in flight is about to look at it, or dead: its heartbeat is
            cut short

So a consumer that was paused past its heartbeat either still finds its batch untouched, or is refused because
another one may have recovered the elements: nothing is lost and nothing is published twice.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import redis

from wearon_consumer.celery_messages import binding, binding_keys
from wearon_consumer.timing import ConsumerTiming
from wearon_contracts.queues import (
    CELERY_QUEUE,
    DEAD_LETTER_BYTES,
    DEAD_LETTER_LIST,
    INFLIGHT_PREFIX,
    INTAKE_STOPPED,
    INVALID_IN_A_ROW,
    LANE_PARKED,
    LANE_TURNS,
    PACE,
    STORE_SHARE,
    TASK_LIST,
    TASKS_HANDED,
    TASKS_KEPT,
    TASKS_WAITING_PREFIX,
    consumer_heartbeat,
    inflight_list,
)
from wearon_contracts.tasks import MAX_READABLE_BYTES, MAX_TASK_BYTES, Channel
from wearon_service_kit.lanes import lane_script
from wearon_service_kit.redis_clients import ANSWER_SECONDS

BATCH_ELEMENTS: Final = 100
BATCH_BYTES: Final = 1024 * 1024
"""A batch ends with the element that reaches this size, so that huge elements come one at a time."""
_SCAN_KEYS: Final = 1000  # keys that Redis looks at for one SCAN, a fraction of a millisecond
_HEAD_BYTES: Final = 64  # holds the first line of any answer to a blocking pop
_SHORTEST_LOOK: Final = 0.001  # seconds; a socket with a time limit of 0 does not wait at all

# Sent as EVAL, not EVALSHA: a restarted server has forgotten scripts, and beside a batch it costs nothing.
_TURN: Final = lane_script("""
-- KEYS task list, in-flight list, heartbeat, Celery queue, dead letters, two binding sets,
--      bytes of dead letters, invalid in a row, intake stopped, store share, keys that a lane needs
-- ARGV heartbeat ms, next ticket, most elements, most bytes, binding,
--      ticket to hand on or '', its elements, 1 if nothing else may be in flight,
--      messages straight for Celery, dead letters (one a line),
--      tasks for the lanes (four lines each: lane, session id, created at, message),
--      1 if one of its elements is valid, invalid elements after the last valid one,
--      limit of invalid in a row, limit of bytes of dead letters, time and consumer for the operator,
--      longest element to read, bytes kept of a longer one, store share, idle heartbeat ms
local function push(list, lines)
  local bytes = 0
  for line in lines_of(lines) do
    call('LPUSH', list, line)
    bytes = bytes + #line
  end
  return bytes
end
local function count_dead_letters_again()
  local bytes, from = 0, 0
  while true do
    local page = call('LRANGE', KEYS[5], from, from + 99)
    for i = 1, #page do bytes = bytes + #page[i] end
    from = from + #page
    if #page < 100 then break end
  end
  call('SET', KEYS[8], bytes)
  return bytes
end
local function stop_intake(reason)
  local why = cjson.encode({reason = reason, since = ARGV[16], by = ARGV[17]})
  call('SET', KEYS[10], why, 'NX')
end
local current, last = string.match(call('GET', KEYS[3]) or '', '(%S+) (%S+)$')
local ticket, outcome = ARGV[6], 0
if ticket ~= '' and ticket == last then
  outcome = 1
elseif ticket ~= '' and ticket == current
    and (ARGV[8] == '0' or call('LLEN', KEYS[2]) == tonumber(ARGV[7])) then
  -- A key of the wrong type raises here, before anything is written: scripts are not rolled back.
  call('LLEN', KEYS[4])
  call('LLEN', KEYS[5])
  for i = 12, #KEYS do call(i <= 13 and 'HLEN' or 'ZCARD', KEYS[i]) end
  call('INCRBY', KEYS[8], 0)
  call('INCRBY', KEYS[9], 0)
  call('SADD', KEYS[6], ARGV[5])
  call('SADD', KEYS[7], ARGV[5])
  push(KEYS[4], ARGV[9])
  enqueue_all(ARGV[11], tonumber(ARGV[7]))
  local dead_bytes = call('INCRBY', KEYS[8], push(KEYS[5], ARGV[10]))
  -- From the right, where the oldest are: a blocking pop given up by us may still add one at the left.
  call('LTRIM', KEYS[2], 0, -1 - tonumber(ARGV[7]))
  outcome, last = 1, ticket
  if ARGV[12] == '1' then call('SET', KEYS[9], 0) end
  if call('INCRBY', KEYS[9], ARGV[13]) >= tonumber(ARGV[14]) then stop_intake('too_many_invalid') end
  if ARGV[10] ~= '' and dead_bytes >= tonumber(ARGV[15])
      and count_dead_letters_again() >= tonumber(ARGV[15]) then
    stop_intake('dead_letters_full')
  end
end
call('SET', KEYS[3], ARGV[2] .. ' ' .. (last or '-'), 'PX', ARGV[1])
call('SET', KEYS[11], ARGV[20])
feed(200)
local stopped = call('GET', KEYS[10]) or ''
local waiting = 0
for i = 14, #KEYS - 2 do waiting = waiting + call('ZCARD', KEYS[i]) end
local answer, bytes = {outcome, stopped, tonumber(call('GET', KEYS[9]) or 0), waiting}, 0
if stopped ~= '' then
  while call('LMOVE', KEYS[2], KEYS[1], 'LEFT', 'RIGHT') do end
  return answer
end
local function add(element, index)
  if #element > tonumber(ARGV[18]) then
    element = '\\0oversized ' .. #element .. ' ' .. string.sub(element, 1, tonumber(ARGV[19]))
    call('LSET', KEYS[2], index, element)
  end
  answer[#answer + 1] = element
  bytes = bytes + #element
end
local held = call('LRANGE', KEYS[2], 0, -1)
for i = #held, 1, -1 do add(held[i], i - 1) end
while #answer < 4 + tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  local element = call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
  if not element then break end
  add(element, 0)
end
if #answer == 4 and waiting == 0 then
  call('SET', KEYS[3], 'idle ' .. ARGV[2] .. ' ' .. (last or '-'), 'PX', ARGV[21])
end
return answer
""")

_RECOVER: Final = """
-- KEYS task list, in-flight list, heartbeat; ARGV ms that an idle consumer has to look at its list
local beat = redis.call('GET', KEYS[3])
if beat then
  local idle = string.sub(beat, 1, 5) == 'idle '
  if idle and redis.call('LLEN', KEYS[2]) > 0 and redis.call('PTTL', KEYS[3]) > tonumber(ARGV[1]) then
    redis.call('PEXPIRE', KEYS[3], ARGV[1])
  end
  return 0
end
local recovered = 0
while redis.call('LMOVE', KEYS[2], KEYS[1], 'LEFT', 'RIGHT') do recovered = recovered + 1 end
return recovered
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """The first two stop all consumers until an operator lets them go on."""

    max_invalid_in_a_row: int
    max_dead_letter_bytes: int
    store_share: int
    """Turns of a store for one of a user."""


class LaneTask(NamedTuple):
    """A task that is to wait for its turn. `created`: Unix seconds; `message`: for Celery."""

    lane: str
    session_id: str
    created: float
    message: str


@dataclass(slots=True)
class Load:
    """Messages and dead letters to push in place of the oldest `elements` in flight, taken under `ticket`."""

    ticket: str
    elements: int
    direct: Sequence[str]
    """Celery messages that wait for no turn."""
    letters: Sequence[str]
    waiting: Sequence[LaneTask]
    any_valid: bool
    trailing_invalid: int
    """Invalid elements after the last valid one, or all if none is valid."""
    awaited: bool = False
    """It is what a blocking pop brought: not to be handed on if anything else has come beside it."""


@dataclass(slots=True)
class Turn:
    """`handed_on`: the load is on its way. If not, the heartbeat had ended, others may have its elements.

    `elements`: all that is now in flight, oldest first; none while the intake is stopped.
    """

    handed_on: bool
    elements: list[bytes]
    intake_stopped: bytes = b""
    """Why no consumer takes elements, as the JSON in Redis; empty if they do."""
    invalid_in_a_row: int = 0
    """Of all consumers together."""
    waiting_in_lanes: int = 0
    """Tasks that wait for their turn."""


class InFlight:
    """One consumer's share of the queue. All methods raise redis.RedisError, and may then be repeated."""

    def __init__(self, client: redis.Redis, consumer_id: str, timing: ConsumerTiming, limits: Limits) -> None:
        self._client = client
        self._timing = timing
        self._limits = limits
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
            DEAD_LETTER_BYTES,
            INVALID_IN_A_ROW,
            INTAKE_STOPPED,
            STORE_SHARE,
            TASKS_KEPT,
            PACE,
            *(TASKS_WAITING_PREFIX + channel for channel in Channel),
            TASKS_HANDED,
            LANE_TURNS,
        ]
        heartbeat_ms = round(self._timing.heartbeat_ttl * 1000)
        arguments: list[str | int] = [heartbeat_ms, ticket, room, BATCH_BYTES, binding(CELERY_QUEUE)]
        if load is None:
            arguments += ["", 0, 0, "", "", "", 0, 0]
        else:
            # Three long texts are packed, sent and parsed faster than hundreds; JSON has no bare newline.
            arguments += [load.ticket, load.elements, int(load.awaited)]
            arguments += [_lines(load.direct), _lines(load.letters)]
            arguments.append("".join(f"{t[0]}\n{t[1]}\n{t[2]}\n{t[3]}\n" for t in load.waiting))
            arguments += [int(load.any_valid), load.trailing_invalid]
        arguments += [self._limits.max_invalid_in_a_row, self._limits.max_dead_letter_bytes]
        arguments += [datetime.now(UTC).isoformat(timespec="seconds"), self.consumer_id]
        arguments += [MAX_READABLE_BYTES, MAX_TASK_BYTES, self._limits.store_share]
        arguments += [round(self._timing.idle_heartbeat_ttl * 1000)]
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("EVAL", _TURN, len(keys), *keys, *arguments)  # type: ignore[no-untyped-call]
            meanwhile()
            handed_on, stopped, invalid_in_a_row, waiting, *elements = connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            # Its answer may still be on the way.
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            pool.release(connection)
        return Turn(bool(handed_on), elements, stopped, invalid_in_a_row, waiting)

    def wait(self, seconds: int, look: Callable[[], float | None]) -> bytes | None:
        """Return when an element has come in flight, or else after so many seconds.

        The element, unless it was too large to be read here. It belongs to the ticket of the last turn.
        `look` is called from time to time and says in how many seconds again; None ends the wait at once.
        """
        pool = self._client.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_command("BLMOVE", TASK_LIST, self.name, "RIGHT", "LEFT", seconds)
            answer = _answer(connection._sock, seconds + ANSWER_SECONDS, look)
            if not answer.whole:
                connection.disconnect()
            return answer.element
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, OSError):
                raise redis.ConnectionError(str(error)) from error
            raise
        finally:
            pool.release(connection)

    def still_idle(self) -> bool:
        """Whether nothing has come, in flight or into a lane. Renews the heartbeat of an idle consumer."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.pexpire(self._heartbeat, round(self._timing.idle_heartbeat_ttl * 1000))
            pipeline.llen(self.name)
            pipeline.exists(LANE_TURNS, LANE_PARKED)
            stands, in_flight, lanes = pipeline.execute()
        return bool(stands) and not in_flight and not lanes

    def recover_some(self) -> dict[str, int]:
        """Put back what other consumers without a heartbeat had taken: how many elements, by consumer id.

        Looks at one page of the key space; `recovery_round_done` tells when the last one was seen.
        """
        page: tuple[int, list[Any]] = self._client.scan(
            self._scan_cursor, match=f"{INFLIGHT_PREFIX}*", count=_SCAN_KEYS, _type="LIST"
        )
        self._scan_cursor, lists = page
        recovered = {}
        for name in lists:
            if name == self.name.encode():
                continue
            consumer_id = name.decode(errors="surrogateescape").removeprefix(INFLIGHT_PREFIX)
            heartbeat = consumer_heartbeat(consumer_id).encode(errors="surrogateescape")
            grace = round(self._timing.idle_grace * 1000)
            count: Any = self._client.eval(_RECOVER, 3, TASK_LIST, name, heartbeat, str(grace))
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
            pipeline.eval(_RECOVER, 3, TASK_LIST, self.name, self._heartbeat, "0")
            return int(pipeline.execute()[1])


def _lines(texts: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


class _Answer(NamedTuple):
    """`whole`: it was read to its end, so that the socket may go on in use."""

    whole: bool
    element: bytes | None = None


def _answer(sock: socket.socket, patience: float, look: Callable[[], float | None]) -> _Answer:
    """Wait for the answer to a blocking pop.

    The element stays in Redis too, and may be larger than this process's memory, so no more than the length
    of a large one is read. An error shows in the turn that follows. Raises OSError, `redis.TimeoutError`, and
    what `look` raises.
    """
    give_up_at = time.monotonic() + patience
    usual = sock.gettimeout()
    pause = 0.0
    while True:
        sock.settimeout(max(pause, _SHORTEST_LOOK))
        try:
            head = sock.recv(_HEAD_BYTES)
            break
        except TimeoutError:
            next_look = look()
            if next_look is None:
                return _Answer(whole=False)
            if time.monotonic() > give_up_at:
                raise redis.TimeoutError("Redis did not answer the blocking pop in time") from None
            pause = next_look
    sock.settimeout(usual)
    line, end, rest = head.partition(b"\r\n")
    if not head:
        raise ConnectionResetError("Redis closed the connection")
    if not end or not line.startswith((b"$", b"*")):
        return _Answer(whole=False)
    length = int(line[1:])
    if length < 0:
        return _Answer(whole=True)
    if length > MAX_READABLE_BYTES:
        return _Answer(whole=False)
    element = bytearray(rest)
    while (left := length + len(b"\r\n") - len(element)) > 0:
        chunk = sock.recv(min(left, MAX_READABLE_BYTES))
        if not chunk:
            raise ConnectionResetError("Redis closed the connection")
        element += chunk
    return _Answer(whole=True, element=bytes(element[:length]))
