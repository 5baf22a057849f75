"""Fair turns between stores and users: the Lua that consumers and generators run in Redis.

Each store and each user is a lane, a list of the session ids that wait. Lanes take turns by self-clocked fair
queueing (Golestani, INFOCOM 1994): a lane's next task has a virtual finish time, one task costs 1 / share of
it, the lane with the least is served, and the clock is the finish time of the task served last. A lane that
was empty starts at the clock, so it neither saves up turns nor waits for what others have queued.

    enqueue   keeps the task's message and puts its session id into its lane: O(log lanes). While nobody waits
              and there is room, it goes straight to Celery's queue
    feed      moves tasks from lanes to Celery's queue, as far ahead as the generators want: O(log lanes) each
    dealt     a generator has started the task, or it needs no start; feeds what there is room for now

A task's message stays in `TASKS_KEPT` from enqueue to dealt. So a message that Celery popped and lost with
its process is still there, and `return_lost` puts it back. Whether a session waits here is one HEXISTS.
A task is handed on while its message is kept and has not been handed yet. So what Redis lost of the other
keys holds up no lane, and a task whose message is lost is left to the sweep, which fails and refunds it.

A second task of a session that waits already is dropped: the first one has its turn, and the ledger would
turn the other away. One of a session that was handed on goes straight to Celery, but only once in a while, so
that nobody who pushes the same session again and again passes the lanes or fills Celery's queue.
"""

from __future__ import annotations

from typing import Final

from wearon_contracts import queues
from wearon_contracts.place import DEFAULT_STORE_SHARE, LANE_FUNCTIONS, PACE_WINDOW_MS, lua_constants

DEFAULT_AHEAD: Final = 15
"""Tasks handed ahead while no generator has said how many: three seconds at 300 a minute."""
STALE_MS: Final = 15_000
"""A task handed out for so long counts no more: whoever has it will not start it soon, and may be dead."""
IN_WORK_MS: Final = 900_000
"""After so long a task counts no more towards its lane's cap: two deadlines of 300 s and their waits."""
CAPPED_LOOK_MS: Final = 1_000
"""A lane with as many tasks in work as it may have is looked at again after this."""
LONGEST_HOLD_MS: Final = 60_000
"""No cap holds a lane back for longer: one job a minute is the least. What lies further ahead was written
before the server's clock was set back."""

_NAMES: Final = {
    "LANE": queues.LANE_PREFIX,
    "TURNS": queues.LANE_TURNS,
    "CLOCK": queues.LANE_CLOCK,
    "PARKED": queues.LANE_PARKED,
    "RULES": queues.LANE_RULES,
    "NEXT": queues.LANE_NEXT,
    "IN_WORK": queues.LANE_IN_WORK_PREFIX,
    "STORE_SHARE": queues.STORE_SHARE,
    "DEFAULT_STORE_SHARE": DEFAULT_STORE_SHARE,
    "KEPT": queues.TASKS_KEPT,
    "WAITING": queues.TASKS_WAITING_PREFIX,
    "HANDED": queues.TASKS_HANDED,
    "AHEAD": queues.TASKS_AHEAD,
    "AGAIN": queues.TASK_AGAIN_PREFIX,
    "CELERY": queues.CELERY_QUEUE,
    "PACE": queues.PACE,
    "PER_MINUTE": queues.PER_MINUTE,
}

_SHARED: Final = """
-- Counts for the pace, see PACE; what was counted long ago says nothing of now.
local function count(what, now)
  local since = tonumber(call('HGET', PACE, 'since') or 0)
  if now - since >= PACE_WINDOW_MS or now < since then
    local counted = {0, 0, 0}
    local recent = now >= since and now - since < 3 * PACE_WINDOW_MS
    if recent then counted = call('HMGET', PACE, 'started', 'idle', 'began') end
    call('HSET', PACE, 'since', now, 'started', 0, 'idle', 0, 'began', 0,
      'last_ms', recent and now - since or 0,
      'last_started', counted[1] or 0, 'last_idle', counted[2] or 0, 'last_began', counted[3] or 0)
  end
  call('HINCRBY', PACE, what, 1)
end

-- Milliseconds until the lane may start another task.
local function held_back(lane, rule, now)
  if rule.in_work then
    call('ZREMRANGEBYSCORE', IN_WORK .. lane, '-inf', now - IN_WORK_MS)
    if call('ZCARD', IN_WORK .. lane) >= rule.in_work then return CAPPED_LOOK_MS end
  end
  if rule.per_minute then
    local hold = tonumber(call('HGET', NEXT, lane) or 0) - now
    return hold <= LONGEST_HOLD_MS and hold or 0
  end
  return 0
end

-- At most `most` of the lanes that are parked until a moment between these two take turns again.
local function unpark(from, to, most)
  local clock = exact(tonumber(call('GET', CLOCK) or 0))
  for _, lane in ipairs(call('ZRANGEBYSCORE', PARKED, from, to, 'LIMIT', 0, most)) do
    call('ZREM', PARKED, lane)
    call('ZADD', TURNS, 'NX', clock, lane)
  end
end

-- How many tasks generators want to have at hand beside those that they have.
local function room(now)
  local ahead = tonumber(call('GET', AHEAD) or DEFAULT_AHEAD)
  local young = call('ZCOUNT', HANDED, now - STALE_MS, now)
  return ahead - math.max(young, call('LLEN', CELERY))
end

-- Hands at most `most` tasks to Celery, as far as there is room; if `all`, whatever room and caps there are.
local function feed(most, all)
  local now = now_ms()
  if not all then most = math.min(most, room(now)) end
  if most <= 0 then return 0 end
  unpark('-inf', all and '+inf' or now, all and most or 20)
  unpark(now + LONGEST_HOLD_MS, '+inf', 20)
  local clock = tonumber(call('GET', CLOCK) or 0)
  local any_rule = not all and call('EXISTS', RULES) == 1
  local handed = 0
  -- Lanes at their caps and tasks that were dealt with while they waited cost a look, and nobody's turn.
  local looks = most + 100
  while looks > 0 and handed < most do
    looks = looks - 1
    local first = call('ZRANGE', TURNS, 0, 0, 'WITHSCORES')
    if not first[1] then break end
    local lane, finish = first[1], tonumber(first[2])
    local rule = any_rule and rule_of(lane) or {}
    local hold = any_rule and held_back(lane, rule, now) or 0
    local id = hold <= 0 and call('RPOP', LANE .. lane)
    local message = id and call('HGET', KEPT, id)
    if hold > 0 then
      call('ZREM', TURNS, lane)
      call('ZADD', PARKED, now + hold, lane)
    elseif not id then
      call('ZREM', TURNS, lane)
    elseif message and not call('ZSCORE', HANDED, id) then
      call('ZREM', waiting_in(lane), id)
      call('LPUSH', CELERY, message)
      call('ZADD', HANDED, now, id)
      call('ZADD', TURNS, exact(finish + turn_cost(lane, rule)), lane)
      clock = math.max(clock, finish)
      if rule.in_work then call('ZADD', IN_WORK .. lane, now, id) end
      if rule.per_minute then call('HSET', NEXT, lane, math.floor(now + 60000 / rule.per_minute)) end
      handed = handed + 1
    else
      call('ZREM', waiting_in(lane), id)
    end
  end
  if handed > 0 then call('SET', CLOCK, exact(clock)) end
  return handed
end

-- Whether the message is kept now; if it was already, it needs no lane.
local function keep(lane, id, message)
  if call('HSETNX', KEPT, id, message) == 1 then return true end
  -- One that is kept and does not wait may be of the other channel, so this one is not simply dropped.
  if not call('ZSCORE', waiting_in(lane), id) and call('SET', AGAIN .. id, '', 'NX', 'PX', STALE_MS) then
    call('LPUSH', CELERY, message)
  end
  return false
end

local function enqueue(lane, id, created, message)
  if not keep(lane, id, message) then return end
  call('ZADD', waiting_in(lane), created, id)
  call('LPUSH', LANE .. lane, id)
  if not call('ZSCORE', TURNS, lane) and not call('ZSCORE', PARKED, lane) then
    -- The clock moves a little, so that lanes which begin at the same time are served in their order.
    local start = tonumber(call('INCRBYFLOAT', CLOCK, '0.0000001'))
    call('ZADD', TURNS, exact(start + turn_cost(lane, rule_of(lane))), lane)
    count('began', now_ms())
  end
end

-- Iterates over the lines of a text, by a plain search: Lua's patterns look at each character by itself.
local function lines_of(text)
  local from = 1
  return function()
    local newline = string.find(text, '\\n', from, true)
    if not newline then return nil end
    local line = string.sub(text, from, newline - 1)
    from = newline + 1
    return line
  end
end

-- As `enqueue` for each of the lines (lane, session id, created at, message), of at most `count` tasks.
-- While no lane has a task or a rule and there is room for all, nobody waits for a turn: they go on at once.
local function enqueue_all(text, count)
  local line = lines_of(text)
  local function tasks() return line(), line(), line(), line() end
  local now = now_ms()
  if call('EXISTS', TURNS, PARKED, RULES) > 0 or count > room(now) then
    for lane, id, created, message in tasks do enqueue(lane, id, created, message) end
    return
  end
  local messages, handed = {}, {}
  for lane, id, _, message in tasks do
    if keep(lane, id, message) then
      messages[#messages + 1] = message
      handed[#handed + 1] = now
      handed[#handed + 1] = id
    end
  end
  if #messages > 0 then
    call('LPUSH', CELERY, unpack(messages))
    call('ZADD', HANDED, unpack(handed))
  end
end
"""


def lane_script(body: str) -> str:
    """`body` behind the functions `enqueue(lane, id, created, message)` and `feed(most, all)`."""
    constants = {
        **_NAMES,
        "DEFAULT_AHEAD": DEFAULT_AHEAD,
        "STALE_MS": STALE_MS,
        "IN_WORK_MS": IN_WORK_MS,
        "CAPPED_LOOK_MS": CAPPED_LOOK_MS,
        "LONGEST_HOLD_MS": LONGEST_HOLD_MS,
        "PACE_WINDOW_MS": PACE_WINDOW_MS,
    }
    return lua_constants(constants) + LANE_FUNCTIONS + _SHARED + body


DEALT: Final = lane_script("""
-- ARGV session id, lane, '1' if the task has ended; hands on what there is room for
call('ZREM', waiting_in(ARGV[2]), ARGV[1])
-- What is kept may be the task of a session of the other channel that has the same id, and waits.
if not call('ZSCORE', waiting_in(is_store(ARGV[2]) and 'user:' or 'store:'), ARGV[1]) then
  call('ZREM', HANDED, ARGV[1])
  call('HDEL', KEPT, ARGV[1])
end
if ARGV[3] == '1' then call('ZREM', IN_WORK .. ARGV[2], ARGV[1]) end
local handed = feed(20)
if ARGV[3] ~= '1' then
  local now = now_ms()
  count('started', now)
  if call('ZCARD', WAITING .. 'b2c') + call('ZCARD', WAITING .. 'b2b') == 0 then count('idle', now) end
  call('HSET', PACE, 'at', now)
end
return handed
""")

ANNOUNCE: Final = lane_script("""
-- ARGV how many tasks generators want ahead; how many they may start a minute, which older ones do not say.
-- Returns 0 if no task waits in any lane.
call('SET', AHEAD, ARGV[1])
if call('EXISTS', TURNS, PARKED) == 0 then return 0 end
if ARGV[2] then call('SET', PER_MINUTE, ARGV[2]) end
feed(200)
return 1
""")

DRAIN: Final = lane_script("""
-- Hands at most 1,000 tasks to Celery, whether they can be started soon or not; 0 if none waits.
local handed = 0
while handed == 0 and call('ZCARD', TURNS) + call('ZCARD', PARKED) > 0 do handed = feed(1000, true) end
return handed
""")

LEAVE: Final = lane_script("""
-- ARGV session id, lane: takes a task that will never start out of its lane; 0 if it does not wait there.
-- The search begins with the oldest: some ms for one behind a million others.
if call('LREM', LANE .. ARGV[2], -1, ARGV[1]) == 0 then return 0 end
call('ZREM', waiting_in(ARGV[2]), ARGV[1])
if not call('ZSCORE', waiting_in(is_store(ARGV[2]) and 'user:' or 'store:'), ARGV[1]) then
  call('HDEL', KEPT, ARGV[1])
end
return 1
""")

RETURN_LOST: Final = lane_script("""
-- ARGV session id, when it was handed: puts its message back as the next one, if it is still as it was then
if call('ZSCORE', HANDED, ARGV[1]) ~= ARGV[2] then return 0 end
local message = call('HGET', KEPT, ARGV[1])
if not message then return call('ZREM', HANDED, ARGV[1]) - 1 end
call('RPUSH', CELERY, message)
call('ZADD', HANDED, now_ms(), ARGV[1])
return 1
""")
