"""Try-ons as tests order them, and whether the books agree with how they ended."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from wearon_contracts.errors import ErrorCode
from wearon_contracts.outcomes import GenerationOutcome
from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, Job
from wearon_local.services import Service
from wearon_local.stack import Stack

Payer = Literal["user", "store", "shopper", "overage"]
PAYERS: Final[tuple[Payer, ...]] = ("user", "store", "shopper", "overage")
"""A user of the app, a store in absorb_mode, a store's shopper, and a store without credits left."""

CREDITS: Final = 10

_TAKEN: Final[dict[Payer, str]] = {
    "user": "generation",
    "store": "deduction",
    "shopper": "deduction",
    "overage": "overage",
}


def keep_status_history(stack: Stack) -> None:
    """Note every change of a session's status, as the browser would see it."""
    with stack.postgres.connect() as database:
        database.execute("""
            create schema seen;
            create table seen.statuses (
                number bigint generated always as identity, session_id uuid, status text
            );
            create function seen.note() returns trigger language plpgsql security definer as $$
            begin
                insert into seen.statuses (session_id, status) values (new.id, new.status);
                return null;
            end $$;
            create trigger seen after update on generation_sessions
                for each row execute function seen.note();
            create trigger seen after update on store_generation_sessions
                for each row execute function seen.note();
        """)


@dataclass(frozen=True)
class TryOn:
    """A job and who has paid for it; each has a payer of its own, who had `CREDITS` before."""

    job: Job
    payer: Payer

    @property
    def id(self) -> str:
        return str(self.job.session_id)


class TryOns:
    """Makes try-ons on a stack and looks at what became of them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.app = stack.app
        pictures = {"person": SAMPLE_PERSON, "garment": SAMPLE_GARMENT}
        folder = f"uploads/{uuid4()}"
        self._paths = [self.app.upload(f"{folder}/{name}.jpg", file) for name, file in pictures.items()]

    def inputs(self) -> list[str]:
        """Signed URLs of a person and a garment, as the app sends them."""
        return [self.app.sign(path) for path in self._paths]

    def make(
        self, payer: Payer = "user", *, prompt: str = "", urls: Sequence[str] | None = None, **changes: Any
    ) -> TryOn:
        """A paid try-on, not pushed yet; the prompt is its own, so that its calls can be told apart."""
        options: dict[str, Any] = {
            "image_urls": urls or self.inputs(),
            "prompt": f"{prompt} try-on {uuid4()}",
            **changes,
        }
        match payer:
            case "user":
                job = self.app.b2c_job(self.app.create_user(credits=CREDITS), **options)
            case "store":
                job = self.app.b2b_job(self.app.create_store(credits=CREDITS), **options)
            case "overage":
                job = self.app.b2b_job(self.app.create_store(credits=0), **options)
            case "shopper":
                store = self.app.create_store(credits=CREDITS, billing_mode="resell_mode")
                email = self.app.create_shopper(store, credits=CREDITS)
                job = self.app.b2b_job(store, shopper_email=email, **options)
        return TryOn(job, payer)

    def order(self, payer: Payer = "user", **options: Any) -> TryOn:
        """Make one and push it."""
        tryon = self.make(payer, **options)
        self.app.push(tryon.job)
        return tryon

    def push(self, *tryons: TryOn) -> None:
        self.app.push(*(tryon.job for tryon in tryons))

    def wait_settled(self, *tryons: TryOn, timeout: float = 60) -> list[dict[str, Any]]:
        return self.app.wait_settled(*(tryon.job for tryon in tryons), timeout=timeout)

    # What became of one

    def row(self, tryon: TryOn) -> dict[str, Any]:
        """The session's row."""
        return self.app.session(tryon.job)

    def entry(self, tryon: TryOn) -> dict[str, Any] | None:
        """The session's row in the ledger, None if it has none."""
        rows = self.app.rows("select * from generation_ledger where session_id = %s", tryon.job.session_id)
        return rows[0] if rows else None

    def usage(self, tryon: TryOn) -> list[dict[str, Any]]:
        """What the ledger noted of the provider's answers."""
        return self.app.rows("select * from generation_usage where session_id = %s", tryon.job.session_id)

    def outcome(self, tryon: TryOn) -> GenerationOutcome:
        """What the owner of the session is told; for a store's, the service role."""
        owner = tryon.job.owner_id if tryon.payer == "user" else None
        return GenerationOutcome.model_validate(self.app.outcome(tryon.job, as_user=owner))

    def statuses(self, tryon: TryOn) -> list[str]:
        """The status after each update of the session's row, as Supabase Realtime would have told it."""
        query = "select status from seen.statuses where session_id = %s order by number"
        return [row["status"] for row in self.app.rows(query, tryon.job.session_id)]

    def calls(self, tryon: TryOn) -> list[dict[str, Any]]:
        """The provider's record of the calls for this try-on, which its prompt names."""
        return self.stack.openai.calls(contains=tryon.job.task["prompt"])

    def balance(self, tryon: TryOn) -> int:
        """What the payer has now."""
        return self.app.balance(tryon.job.owner_id, tryon.job.shopper_email)

    # The books

    def assert_completed(self, tryon: TryOn, *, calls: int | None = 1) -> None:
        """One picture was delivered and paid for; `calls` of the provider were made for it."""
        row, entry, outcome = self.row(tryon), self.entry(tryon), self.outcome(tryon)
        assert (row["status"], row["error_message"]) == ("completed", None)
        assert row["completed_at"] >= row["created_at"]
        assert row["processing_time_ms"] > 0
        assert (row["input_tokens"], row["output_tokens"]) > (0, 0)
        assert row["estimated_cost_usd"] > 0
        assert self.app.download(row["generated_image_url"]).content == self.app.stored(tryon.job)
        assert entry is not None
        assert (entry["state"], entry["outcome"], entry["refund_state"]) == ("settled", "completed", None)
        assert entry["object_path"] == tryon.job.result_path
        assert entry["task"] is None, "prompt and signed addresses are kept for longer than needed"
        assert (outcome.outcome, outcome.given_back, outcome.error_code) == ("completed", False, None)
        self.assert_taken(tryon)
        if calls is not None:
            assert len(self.calls(tryon)) == calls

    def assert_failed(self, tryon: TryOn, code: ErrorCode, message: str, *, attempts: int = 1) -> None:
        """It failed for this reason and its credit was given back, once."""
        row, entry, outcome = self.row(tryon), self.entry(tryon), self.outcome(tryon)
        assert (row["status"], row["error_message"]) == ("failed", message)
        assert (row["generated_image_url"], row["completed_at"]) == (None, None)
        assert entry is not None
        assert (entry["state"], entry["outcome"]) == ("settled", "failed")
        assert (entry["error_code"], entry["attempt"]) == (code.value, attempts)
        assert entry["task"] is None, "prompt and signed addresses are kept for longer than needed"
        assert (outcome.outcome, outcome.error_code, outcome.attempts) == ("failed", code, attempts)
        assert outcome.settled_at is not None
        if tryon.payer == "overage":
            assert (entry["refund_state"], entry["flagged_reason"]) == ("overage", "overage")
            assert (outcome.given_back, outcome.flagged) == (False, True)
            self.assert_taken(tryon)
        else:
            assert (entry["refund_state"], entry["refund_amount"]) == ("refunded", 1)
            assert (entry["refund_payer"], entry["flagged_reason"]) == (tryon.payer, None)
            assert entry["refunded_at"] is not None
            assert (outcome.given_back, outcome.flagged) == (True, False)
            assert outcome.given_back_at is not None
            self.assert_given_back(tryon)

    def assert_taken(self, tryon: TryOn) -> None:
        """What was taken is still gone."""
        assert self._booked(tryon) == [(1, _TAKEN[tryon.payer])]
        assert self.balance(tryon) == (0 if tryon.payer == "overage" else CREDITS - 1)

    def assert_given_back(self, tryon: TryOn) -> None:
        """What was taken is back, once, with whoever paid it."""
        assert self._booked(tryon) == [(1, _TAKEN[tryon.payer]), (1, "refund")]
        assert self.balance(tryon) == CREDITS
        if tryon.payer == "shopper":
            assert self.app.balance(tryon.job.owner_id) == CREDITS, "the store got what its shopper paid"

    def _booked(self, tryon: TryOn) -> list[tuple[int, str]]:
        # The application books what is taken from users as negative, from stores as positive amounts.
        return [(abs(entry["amount"]), entry["type"]) for entry in self.app.transactions(tryon.job)]


def events_of(tryon: TryOn, *services: Service) -> list[dict[str, Any]]:
    """All log lines of the services that carry the try-on's request_id, in the order of their times."""
    request_id = tryon.job.request_id
    lines = [event for service in services for event in service.events(request_id=request_id)]
    return sorted(lines, key=lambda event: str(event["timestamp"]))


def start_generators(
    stack: Stack,
    count: int,
    env: Mapping[str, str] | None = None,
    *,
    timing: Mapping[str, float] | None = None,
    internet: Mapping[str, int] | None = None,
) -> list[Service]:
    """So many generators, started at the same time; `timing`, `internet`: see `quick_generator`."""
    full_env, module = dict(env or {}), None
    if timing is not None or internet is not None:
        module = "tests.integration.quick_generator"
        full_env["PYTHONPATH"] = str(Path(__file__).parents[2])
        full_env["TIMING"] = json.dumps(dict(timing or {}))
        full_env["INTERNET"] = json.dumps(dict(internet or {}))
    started = [stack.start_service("generator", full_env, wait=False, module=module) for _ in range(count)]
    return [generator.wait_ready() for generator in started]


class Samples:
    """The samples of a generator's /metrics, by metric and label."""

    def __init__(self, samples: dict[str, float]) -> None:
        self._samples = {name.removeprefix("wearon_generator_"): value for name, value in samples.items()}

    def by(self, metric: str, label: str) -> Counter[str]:
        """How much each value of the label counts."""
        found: Counter[str] = Counter()
        for name, value in self._samples.items():
            match = re.fullmatch(rf'{metric}{{(?:.*,)?{label}="([^"]*)".*}}', name)
            if match:
                found[match[1]] += int(value)
        return found

    def total(self, metric: str) -> float:
        """The sum over all labels."""
        return sum(value for name, value in self._samples.items() if name.partition("{")[0] == metric)
