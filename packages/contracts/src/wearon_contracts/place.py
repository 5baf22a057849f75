"""A task's place in line: how many start before it, and in about how many seconds it starts.

Read from the lanes in Redis (`wearon_service_kit.lanes`) by one script, which the npm package and `wearonctl`
run. It changes nothing.

Before a task start what has been handed to Celery, what goes back for a retry, and of each other lane as many
tasks as have a smaller virtual finish time. With more than `MOST_LANES_LOOKED_AT` lanes before it, so many
evenly spread ones stand for all of them.

Seconds follow from the pace at which jobs have started in the last ten to twenty seconds, as long as more
waited behind each of them: otherwise nobody was at the limit, and the limit itself is the pace. Lanes that
begin meanwhile are served before a task that waits deep in a long lane; so many as have begun lately are
expected to go on beginning.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from wearon_contracts import queues

MOST_LANES_LOOKED_AT: Final = 200  # half a millisecond in Redis, which does nothing else meanwhile
PACE_WINDOW_MS: Final = 10_000
"""The pace is counted over the current window and the one before."""
FEWEST_STARTS: Final = 5
"""With fewer starts than this nothing is known of the pace."""
STALLED_MS: Final = 20_000
"""Jobs that were handed so long ago while none started wait for something that nobody can foresee."""
MOST_BEFORE_IN_LANE: Final = 100_000
"""A task further back in its lane is taken for the last one, so that the search takes a few milliseconds."""
DEFAULT_PER_MINUTE: Final = 300
"""The limit while no generator has announced it."""
DEFAULT_STORE_SHARE: Final = 10
"""How many turns a store takes for one of a user, unless the consumers were told otherwise."""

_CONSTANTS: Final = {
    "LANE": queues.LANE_PREFIX,
    "TURNS": queues.LANE_TURNS,
    "CLOCK": queues.LANE_CLOCK,
    "RULES": queues.LANE_RULES,
    "STORE_SHARE": queues.STORE_SHARE,
    "DEFAULT_STORE_SHARE": DEFAULT_STORE_SHARE,
    "WAITING": queues.TASKS_WAITING_PREFIX,
    "HANDED": queues.TASKS_HANDED,
    "RETRIES": queues.CELERY_RETRY_QUEUE,
    "PACE": queues.PACE,
    "PER_MINUTE": queues.PER_MINUTE,
    "MOST_LANES": MOST_LANES_LOOKED_AT,
    "FEWEST": FEWEST_STARTS,
    "STALLED_MS": STALLED_MS,
    "MOST_BEFORE": MOST_BEFORE_IN_LANE,
    "DEFAULT_PER_MINUTE": DEFAULT_PER_MINUTE,
}

LANE_FUNCTIONS: Final = """
local call = redis.call
local function is_store(lane) return string.sub(lane, 1, 6) == 'store:' end
local function waiting_in(lane) return WAITING .. (is_store(lane) and 'b2b' or 'b2c') end
local function turn_cost(lane, rule)
  local share = rule.share
  if not share then
    share = is_store(lane) and tonumber(call('GET', STORE_SHARE) or DEFAULT_STORE_SHARE) or 1
  end
  return 1 / share
end
local function rule_of(lane)
  local rule = call('HGET', RULES, lane)
  return rule and cjson.decode(rule) or {}
end
local function exact(number) return string.format('%.17g', number) end
local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""
"""What every script about lanes uses."""


def lua_constants(constants: dict[str, Any]) -> str:
    """Lines that give these values their names in Lua."""
    return "".join(
        f"local {name} = '{value}'\n" if isinstance(value, str) else f"local {name} = {value}\n"
        for name, value in constants.items()
    )


PLACE_SCRIPT: Final = (
    lua_constants(_CONSTANTS)
    + LANE_FUNCTIONS
    + """
-- ARGV session id, lane. Answers jobs before it and ms until it starts or -1; nil if it does not wait.
local id, lane, now = ARGV[1], ARGV[2], now_ms()
local before, distance, capped_ms = call('LLEN', RETRIES), 0, 0

local function jobs_before_in(other, finish, mine)
  if other == lane then return 0 end
  local turns = math.floor((mine - finish) / turn_cost(other, rule_of(other))) + 1
  return math.min(call('LLEN', LANE .. other), turns)
end

local function jobs_before_in_other_lanes(mine)
  local most = '(' .. exact(mine)
  local lanes, found = call('ZCOUNT', TURNS, '-inf', most), 0
  if lanes <= MOST_LANES then
    local all = call('ZRANGEBYSCORE', TURNS, '-inf', most, 'WITHSCORES')
    for i = 1, #all, 2 do found = found + jobs_before_in(all[i], tonumber(all[i + 1]), mine) end
    return found
  end
  for i = 0, MOST_LANES - 1 do
    local rank = math.floor((i + 0.5) * lanes / MOST_LANES)
    local one = call('ZRANGE', TURNS, rank, rank, 'WITHSCORES')
    found = found + jobs_before_in(one[1], tonumber(one[2]), mine)
  end
  return math.floor(found * lanes / MOST_LANES)
end

local rank = call('ZRANK', HANDED, id)
if rank then
  before = before + rank
elseif call('ZSCORE', waiting_in(lane), id) then
  local length = call('LLEN', LANE .. lane)
  local index = call('LPOS', LANE .. lane, id, 'RANK', -1, 'MAXLEN', MOST_BEFORE)
  local ahead = index and length - 1 - index or length
  local rule, clock = rule_of(lane), tonumber(call('GET', CLOCK) or 0)
  local cost = turn_cost(lane, rule)
  local mine = tonumber(call('ZSCORE', TURNS, lane) or clock + cost) + ahead * cost
  distance = mine - clock
  before = before + call('ZCARD', HANDED) + ahead + jobs_before_in_other_lanes(mine)
  if rule.per_minute then capped_ms = ahead * 60000 / rule.per_minute end
else
  return false
end

local pace = {}
local fields = call('HGETALL', PACE)
for i = 1, #fields, 2 do pace[fields[i]] = tonumber(fields[i + 1]) end
local function of(field) return pace[field] or 0 end
local oldest = call('ZRANGE', HANDED, 0, 0, 'WITHSCORES')[2]
if oldest and now - math.max(tonumber(oldest), of('at')) > STALLED_MS then return {before, -1} end

local lasted = math.max(now - of('since'), 1)
local started, idle = of('started') + of('last_started'), of('idle') + of('last_idle')
local a_ms = tonumber(call('GET', PER_MINUTE) or DEFAULT_PER_MINUTE) / 60000
if idle == 0 and started >= FEWEST then a_ms = started / (lasted + of('last_ms')) end
if distance > 1 and of('last_ms') > 0 then
  -- The lower of two windows: many lanes that begin at once do not go on to.
  local beginning = math.min(of('began') / lasted, of('last_began') / of('last_ms'))
  a_ms = math.max(a_ms - beginning * (1 - 1 / distance), a_ms / 20)
end
return {before, math.floor(math.max((before + 1) / a_ms, capped_ms))}
"""
)
"""`EVAL` with no key and two arguments, session id and lane; its answer is for `read_place`."""


class Place(NamedTuple):
    """How many jobs start before one, and in about how many seconds it starts; None if none start now."""

    before: int
    seconds: float | None


def read_place(answer: list[int] | None) -> Place | None:
    """What `PLACE_SCRIPT` answered; None for a session that does not wait.

    It has started or ended then, or no consumer has taken it from the producer's list yet.
    """
    if answer is None:
        return None
    before, ms = answer
    return Place(before, None if ms < 0 else ms / 1000)
