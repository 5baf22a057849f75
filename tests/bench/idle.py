"""What one consumer and one generator ask of Redis while nothing is to do; hosted plans count commands."""

from __future__ import annotations

import time
from collections import Counter

from tests.bench.report import Section, at_most, plain

from wearon_generator.activity import IDLE_SECONDS
from wearon_local.stack import Stack

# In one minute a reconnection and the turns of slow loops make one command in ten more or fewer.
SECONDS = 180
LIMIT = 1.0  # commands a second; small plans allow 500,000 a month and more, a day has 86,400 s


def run(_quick: bool) -> list[Section]:
    with Stack() as stack:
        stack.start_service("consumer")
        stack.start_service("generator")
        calls = count_calls(stack)
    section = Section("Idle traffic: commands of one consumer and one generator, those inside scripts too")
    section.lines.append(
        at_most("all commands", sum(calls.values()), LIMIT, "1/s", "without probes, scrapes")
    )
    section.lines += [plain(f"… {name}", each, "1/s") for name, each in calls.most_common()]
    return [section]


def count_calls(stack: Stack) -> Counter[str]:
    """Commands a second by name, from services that have come to rest."""
    time.sleep(IDLE_SECONDS + 5)
    with stack.redis.client() as client:
        before = _calls(client.info("commandstats"))
        time.sleep(SECONDS)
        after = _calls(client.info("commandstats"))
    after.subtract(before)
    after.subtract({"info": 1})
    return Counter({name: calls / SECONDS for name, calls in after.items() if calls > 0})


def _calls(stats: dict[str, dict[str, float]]) -> Counter[str]:
    return Counter({name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in stats.items()})
