"""The laws that hold whatever breaks, each as a function from the evidence to its breaches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from tests.chaos.evidence import Evidence, Row, moment, same_json
from tests.chaos.workload import CREDITS, Pushed
from tests.chaos.world import Step

from wearon_contracts.sessions import SETTLED

LAWS: Final = {
    1: "every pushed task ends",
    2: "credits add up, to whoever paid",
    3: "no status goes backwards, none is both completed and refunded",
    4: "nothing is paid twice",
    5: "each completed session has its picture, no picture lacks a session",
    6: "no live lease is taken, late writes are refused",
    7: "everything works again within 15 s of Redis",
    8: "each settled session's webhook arrives once the receiver is back",
    9: "cancelled: refunded and never called for; too late: not cancelled",
}
_UNINSTALLED: Final = "The store was uninstalled."
_CRON: Final = "Stuck job recovery"
_NETWORK_ERRORS: Final = frozenset({"APIConnectionError", "APITimeoutError", "CancelledError"})


@dataclass
class Verdicts:
    """By law: how it was broken. `reported`: what the application's cron did that nobody can prevent."""

    breaches: dict[int, list[str]] = field(default_factory=lambda: {law: [] for law in LAWS})
    reported: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)

    @property
    def hold(self) -> bool:
        return not any(self.breaches.values())


def judge(evidence: Evidence) -> Verdicts:
    """Hold the evidence against all laws but 7, which is watched while it runs."""
    verdicts = Verdicts()
    checks: dict[int, Callable[[Evidence, Verdicts], Iterator[str]]] = {
        1: _everything_ends,
        2: _credits_add_up,
        3: _statuses_are_legal,
        4: _nothing_is_paid_twice,
        5: _pictures_are_right,
        6: _leases_are_respected,
        8: _webhooks_arrive,
        9: _cancellations_are_kept,
    }
    for law, check in checks.items():
        verdicts.breaches[law] += check(evidence, verdicts)
    verdicts.breaches[1] += evidence.unexpected_ends
    return verdicts


# ---------------------------------------------------------------------------------------------- 1


def _everything_ends(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    last_loss = max(evidence.interference.redis_losses, default=0.0)
    for pushed in evidence.pushed:
        if pushed.session in evidence.gone:
            continue
        status = evidence.sessions[pushed.session]["status"] if pushed.session else None
        if status is not None and status not in SETTLED:
            yield f"{_name(pushed)} is still {status}"
        if pushed.ends == "failed" and status == "completed":
            yield f"{_name(pushed)} cannot succeed but is completed"
        # What Redis has forgotten cannot be a dead letter; its session, if it has one, failed all the same.
        if not pushed.readable and pushed.at > last_loss and not _set_aside(evidence, pushed):
            yield f"{_name(pushed)} is not in the dead letters"
    for session, pushed in evidence.jobs.items():
        verdicts.figures[evidence.sessions[session]["status"]] += 1
        entry = evidence.ledger.get(session)
        ended_by_app = evidence.sessions[session]["error_message"] == _UNINSTALLED
        ended_by_app |= session in evidence.interference.cron_failures
        if (entry is None and not ended_by_app) or (entry is not None and entry["state"] != "settled"):
            yield f"{_name(pushed)} is {entry and entry['state']} in the ledger"
    for session, pushed in evidence.gone.items():
        verdicts.figures["deleted with their user"] += 1
        if evidence.ledger.get(session, {"state": "settled"})["state"] != "settled":
            yield f"{_name(pushed)}, whose user is deleted, is still open in the ledger"
    verdicts.figures["dead-lettered"] = len(evidence.dead_letters)


def _set_aside(evidence: Evidence, pushed: Pushed) -> bool:
    if any(same_json(letter, pushed.element) for letter in evidence.dead_letters):
        return True
    # A generator writes what it was given anew: the same task, with its times in another form.
    task_id = _task_id(pushed.element)
    return task_id is not None and any(_task_id(letter) == task_id for letter in evidence.dead_letters)


def _task_id(element: bytes) -> Any:
    try:
        return json.loads(element).get("task_id")
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------- 2


def _credits_add_up(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    expected = {
        payer: 0 if payer[0] == evidence.accounts.overdrawn else CREDITS
        for payer in evidence.balances
        if payer[0] in evidence.accounts.mine
    }
    for session, pushed in evidence.jobs.items():
        assert pushed.job
        rows, entry = evidence.money[session], evidence.ledger.get(session, {})
        failed = evidence.sessions[session]["status"] == "failed"
        refunds = [row for row in rows if row["type"] == "refund"]
        by_cron = [row for row in refunds if row["description"].startswith(_CRON)]
        paid = any(row["type"] in ("deduction", "generation") for row in rows)
        owed = _owed(evidence, session, pushed) if failed else 0
        excess = len(refunds) - owed
        if excess > 0 and excess <= len(by_cron) and _cron_came_after(evidence, session):
            verdicts.reported.append(f"{_name(pushed)} was refunded by the cron on top")
        elif excess:
            yield f"{_name(pushed)} {'failed' if failed else 'completed'} with {len(refunds)} refunds"
        if paid:
            payer = _payer(evidence, pushed)
            expected[payer] += len(refunds) - 1
        if failed and pushed.label.startswith("b2b overage") and entry.get("flagged_reason") != "overage":
            yield f"{_name(pushed)} failed on overage and is not flagged"
        unknown = failed and pushed.label == "b2b without request_id"
        if unknown and entry.get("flagged_reason") != "nothing_deducted":
            yield f"{_name(pushed)} failed without a request_id and is not flagged"
        if entry.get("refund_state") == "owed":
            yield f"{_name(pushed)} is owed its credit ({entry['refund_error']})"
    for payer, balance in expected.items():
        if evidence.balances[payer] != balance:
            yield f"payer {payer} has {evidence.balances[payer]} instead of {balance}"


def _owed(evidence: Evidence, session: str, pushed: Pushed) -> int:
    """How many refunds a failed session must have had."""
    row = evidence.sessions[session]
    uninstalled = row["error_message"] == _UNINSTALLED
    nothing_known = pushed.label.startswith("b2b overage") or (
        row["channel"] == "b2b" and row["request_id"] is None
    )
    return 0 if uninstalled or nothing_known else 1


def _payer(evidence: Evidence, pushed: Pushed) -> tuple[UUID, str | None]:
    assert pushed.job
    return pushed.job.owner_id, pushed.job.shopper_email


def _cron_came_after(evidence: Evidence, session: str) -> bool:
    """Whether the cron's refund was not there yet when the session was being settled."""
    refunded_at = evidence.interference.cron_refunds.get(session)
    asked = [s.at for s in evidence.by_session[session] if s.name in ("complete:asked", "fail:asked")]
    return refunded_at is not None and (not asked or refunded_at > max(asked))


# ---------------------------------------------------------------------------------------------- 3


def _statuses_are_legal(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    for session, pushed in evidence.jobs.items():
        seen, status = evidence.statuses[session], evidence.sessions[session]["status"]
        entry = evidence.ledger.get(session, {})
        changes = [(old, new) for old, new in pairwise(seen) if old != new]
        overwritten = session in evidence.interference.cron_failures
        for old, new in changes:
            if old in SETTLED:
                if overwritten and (old, new) == ("completed", "failed"):
                    verdicts.reported.append(f"{_name(pushed)} was failed by the cron after it was completed")
                else:
                    yield f"{_name(pushed)} went from {old} to {new}"
            elif (old, new) == ("queued", "completed"):
                yield f"{_name(pushed)} was completed without being processed"
        back = changes.count(("processing", "queued"))
        if back > entry.get("rate_limit_retries", 0):
            yield f"{_name(pushed)} went back to queued {back} times: {' '.join(seen)}"
        if not seen or seen[-1] != status:
            yield f"{_name(pushed)}: the listener saw {seen}"
        if entry.get("outcome") not in (status, None) and not overwritten:
            yield f"{_name(pushed)} is {status}, the ledger says {entry['outcome']}"
        refunded = any(row["type"] == "refund" for row in evidence.money[session])
        if status == "completed" and refunded and not _cron_came_after(evidence, session):
            yield f"{_name(pushed)} is both completed and refunded"


# ---------------------------------------------------------------------------------------------- 4


def _nothing_is_paid_twice(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    stored = {_session_of(item): moment(item["created_at"]) for item in evidence.objects}
    for session, pushed in evidence.jobs.items():
        calls = evidence.calls[session]
        verdicts.figures["calls"] += len(calls)
        excuses = [
            excuse for asked in _asked(evidence, session) if (excuse := _excuse(evidence, session, asked))
        ]
        verdicts.figures["calls made again"] += max(0, len(calls) - 1)
        if len(calls) > 1 + len(excuses):
            outcomes = [call["outcome"] for call in calls]
            yield f"{_name(pushed)}: {len(calls)} calls {outcomes}, excused by {excuses}"
        for asked in _asked(evidence, session):
            claimed = max(
                (
                    s.at
                    for s in evidence.by_session[session]
                    if s.name == "claim:answered" and s.process == asked.process and s.at <= asked.at
                ),
                default=asked.at,
            )
            # A picture stored while the next attempt was already past looking for one is law 5's matter.
            if session in stored and claimed > stored[session] + 0.001:
                yield f"{_name(pushed)} was called for again although its picture was stored"


def _asked(evidence: Evidence, session: str) -> list[Step]:
    return [step for step in evidence.by_session[session] if step.name == "call:asked"]


def _excuse(evidence: Evidence, session: str, asked: Step) -> str | None:
    """Why another call after this one is allowed: it brought nothing, or what it brought was lost."""
    mine = [s for s in evidence.by_session[session] if s.process == asked.process and s.at >= asked.at]
    ended = next((s for s in mine if s.name in ("call:answered", "call:raised")), None)
    if ended is not None and ended.name == "call:raised":
        status = ended.status or 0
        if ended.error in _NETWORK_ERRORS or status >= 500 or status in (408, 409, 429):
            return f"{ended.error} {ended.status or ''}".strip()
    done = next(
        (s.at for s in mine if s.name in ("upload:answered", "fail:answered", "requeue:answered")), None
    )
    until = float("inf") if done is None else done
    (process,) = (r for r in evidence.replicas if r.name == asked.process)
    if process.ended_at is not None and asked.at - 0.05 <= process.ended_at <= until:
        return "killed"
    for begin, end in process.pauses:
        if end - begin > evidence.pace.lease and begin <= until and end >= asked.at:
            return "paused beyond the lease"
    holder = next(
        (s.holder for s in evidence.by_session[session] if _begins(s) and s.attempt == asked.attempt), None
    )
    for taken in _possessions(evidence, session):
        if taken.holder != holder and asked.at <= taken.at <= until:
            return "lease lost"
    return None


# ---------------------------------------------------------------------------------------------- 5


def _pictures_are_right(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    objects = {_session_of(item): item for item in evidence.objects}
    verdicts.figures["pictures stored again"] += sum(item["writes"] - 1 for item in evidence.objects)
    for session in objects:
        if session not in evidence.sessions:
            yield f"object {objects[session]['name']} belongs to no session"
    for session, pushed in evidence.jobs.items():
        if evidence.sessions[session]["status"] != "completed":
            continue
        made = {call["result_sha256"] for call in evidence.calls[session]}
        item = objects.get(session)
        if item is None:
            yield f"{_name(pushed)} is completed without a picture"
        elif item["sha256"] not in made or item["content_type"] != "image/jpeg":
            yield f"{_name(pushed)}: the picture stored is not one that was made for it"
        elif evidence.downloads[session] != item["sha256"]:
            yield f"{_name(pushed)}: its link does not lead to its picture"
        elif not item["name"].startswith(f"{_folder(pushed)}/"):
            yield f"{_name(pushed)}: its picture lies at {item['name']}"


def _session_of(item: Row) -> str:
    return str(item["name"].rpartition("/")[2].removesuffix(".jpg"))


def _folder(pushed: Pushed) -> str:
    assert pushed.job
    return pushed.job.result_path.rpartition("/")[0]


# ---------------------------------------------------------------------------------------------- 6

_BEGINNING: Final = {("claim:answered", "claimed"), ("claim:answered", "poison")}
_TAKING: Final = {("hold:answered", "held"), *_BEGINNING}
_SETTLING: Final = {
    ("complete:answered", "completed"),
    ("fail:answered", "failed"),
    ("requeue:answered", "requeued"),
}


def _begins(step: Step) -> bool:
    return (step.name, step.verdict) in _BEGINNING


@dataclass(frozen=True, slots=True)
class Possession:
    """A session taken by a holder, at a time of the database's clock: an answer may be read much later."""

    at: float
    process: str
    holder: str | None


def _possessions(evidence: Evidence, session: str) -> list[Possession]:
    taken = [
        Possession(step.lease_until - evidence.pace.lease, step.process, step.holder)
        for step in evidence.by_session[session]
        if (step.name, step.verdict) in _TAKING and step.lease_until is not None
    ]
    return sorted(taken, key=lambda possession: possession.at)


def _leases_are_respected(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    renewals: dict[str, list[float]] = {}
    asked_at: dict[str, float] = {}
    for step in evidence.steps:
        if step.name == "renew:asked":
            asked_at[step.process] = step.at
        elif step.name == "renew:answered":
            renewals.setdefault(step.process, []).append(asked_at[step.process])
    for session, pushed in evidence.jobs.items():
        story, taken = evidence.by_session[session], _possessions(evidence, session)
        for before, after in pairwise(taken):
            if before.holder == after.holder:
                continue
            verdicts.figures["takeovers"] += 1
            if any(s.holder == before.holder and s.what in ("release", "requeue") for s in story):
                continue
            # A renewal counts from when it was asked for; it was made no earlier. One asked for after
            # the lease had run out, by a process that was stopped meanwhile, kept nothing.
            good_until = before.at + evidence.pace.lease
            for renewed in sorted(renewals.get(before.process, [])):
                if before.at <= renewed < min(after.at, good_until):
                    good_until = renewed + evidence.pace.lease
            if after.at < good_until:
                yield (
                    f"{_name(pushed)} was taken from {before.process} by {after.process}"
                    f" {good_until - after.at:.2f} s before its lease ran out"
                )
        yield from _late_writes(story, taken, pushed)


def _late_writes(story: list[Step], taken: list[Possession], pushed: Pushed) -> Iterator[str]:
    """Uploads and settlements by a holder whom another had replaced before it began them."""

    def replaced(step: Step) -> bool:
        before = [possession for possession in taken if possession.at < step.at]
        return bool(before) and before[-1].holder != step.holder

    checked: dict[int | None, bool] = {}  # by attempt
    for step in story:
        if step.name == "check:asked":
            checked[step.attempt] = not replaced(step)
        elif step.name == "check:answered":
            if step.verdict == "current" and not checked.get(step.attempt):
                yield f"{_name(pushed)}: {step.process} was told it is current after it was replaced"
            checked[step.attempt] = step.verdict == "current"
        elif step.name == "upload:asked" and not checked.get(step.attempt):
            yield f"{_name(pushed)}: {step.process} uploaded without being current"
        elif step.name in ("complete:asked", "fail:asked", "requeue:asked") and replaced(step):
            answer = next(
                (
                    s
                    for s in story
                    if s.at >= step.at and s.holder == step.holder and s.name == f"{step.what}:answered"
                ),
                None,
            )
            if answer is not None and (answer.name, answer.verdict) in _SETTLING:
                yield f"{_name(pushed)}: {step.process} settled it after it was replaced"


def _name(pushed: Pushed) -> str:
    return f"{pushed.label} {pushed.session or pushed.element[:60]!r}"


# ---------------------------------------------------------------------------------------------- 8


def _webhooks_arrive(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    if evidence.webhooks is None:
        return
    for session, pushed in evidence.jobs.items():
        # What the cron made of a settled session afterwards is no event.
        first = next((s for s in evidence.statuses[session] if s in SETTLED), None)
        if first is None:
            continue
        ends = [r for r in evidence.webhooks.get(session, []) if r.event["type"] != "generation.processing"]
        verdicts.figures["webhooks sent again"] += max(0, len(ends) - 1)
        cancelled = evidence.ledger.get(session, {}).get("error_code") == "cancelled"
        wanted = f"generation.{'cancelled' if cancelled else first}"
        if {r.event["type"] for r in ends} != {wanted} or len({r.id for r in ends}) != 1:
            yield f"{_name(pushed)} is {first}, the receiver was told {[r.event['type'] for r in ends]}"


# ---------------------------------------------------------------------------------------------- 9

_ACCEPTED: Final = {"cancelled", "already_cancelled"}


def _cancellations_are_kept(evidence: Evidence, verdicts: Verdicts) -> Iterator[str]:
    """That the credit of a cancelled session is given back once is law 2."""
    for session, pushed in evidence.jobs.items():
        told = set(evidence.interference.cancellations.get(session, []))
        is_accepted, is_refused = bool(told & _ACCEPTED), bool(told - _ACCEPTED)
        verdicts.figures["cancelled"] += is_accepted
        verdicts.figures["cancelled too late"] += is_refused
        entry = evidence.ledger.get(session, {})
        status, calls = evidence.sessions[session]["status"], len(evidence.calls[session])
        if is_accepted != (entry.get("settled_by") == "cancellation"):
            yield f"{_name(pushed)} is settled by {entry.get('settled_by')}; who cancelled it was told {told}"
        if is_accepted and is_refused:
            yield f"{_name(pushed)}: who cancelled it was told different things: {told}"
        if is_accepted and (status, entry.get("error_code")) != ("failed", "cancelled"):
            yield f"{_name(pushed)} was cancelled and is {status} with {entry.get('error_code')}"
        if is_accepted and calls:
            yield f"{_name(pushed)} was cancelled and the provider was called {calls} times"
