"""The main job, shown: four try-ons from the Node producer through every service, with the books checked.

Then a lane that takes its turn, and try-ons that are cancelled.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TextIO
from uuid import UUID

from PIL import Image

from wearon_contracts.queues import DEAD_LETTER_LIST
from wearon_contracts.sessions import SESSION_TABLES, SETTLED
from wearon_local.app.next_app import (
    SAMPLE_ACCESSORY,
    SAMPLE_GARMENT,
    SAMPLE_PERSON,
    SAMPLE_SHOP_GARMENT,
    SAMPLE_SHOP_PERSON,
    Job,
)
from wearon_local.app.producer import push_with_node
from wearon_local.app.webhook_receiver import WebhookReceiver
from wearon_local.processes import passed_on_environment
from wearon_local.services import Service
from wearon_local.stack import Stack

CREDITS: Final = 10
SAMPLE_HEIGHT: Final = "161.3"
_SETTLES_WITHIN: Final = 45.0
_STORE_JOBS: Final = 90  # more than the generators take ahead and start while one picture is made
_SIZES_WITHIN: Final = 60.0
_WEBHOOKS_WITHIN: Final = 30.0
_STEPS: Final = {
    "job_held": "fetching the images",
    "images_ready": "waiting for a slot",
    "session_processing": "waiting for the picture",
    "provider_answered": "storing the picture",
    "session_requeued": "waiting for a retry",
}
"""What a job is at after each of the generator's log events."""


@dataclass(frozen=True, slots=True)
class TryOn:
    """One job of the demo, what is expected of it, and the pictures that went in."""

    label: str
    job: Job
    expected: str
    inputs: tuple[Path, ...]


def run(
    *,
    latency: float,
    mode: str | None,
    output: Path,
    keep: Callable[[Stack], None] | None,
    out: TextIO = sys.stdout,
) -> int:
    """Run it all; 0 if everything is as expected.

    `mode`: how the OpenAI stand-in misbehaves. `output`: where a directory with pictures and logs is made.
    `keep` is called at the end while all still runs.
    """
    started = time.monotonic()
    with Stack(openai_latency=latency) as stack, WebhookReceiver() as shop:
        _say(out, f"Redis, PostgreSQL, PostgREST, gateway and OpenAI stand-in run ({_since(started)}).")
        stack.webhook_origin = shop.origin
        services = [
            stack.start_service("consumer", wait=False),
            stack.start_service("generator", wait=False),
        ]
        secret = _add_webhook(stack, shop)
        for service in services:
            service.wait_ready()
        if keep is not None:
            stack.start_service("sizing-api", wait=False)
        _say(out, f"Consumer and generator are ready ({_since(started)}).\n")
        if mode is not None:
            stack.openai.set_mode(mode)
        directory = output / time.strftime("%Y%m%d-%H%M%S")
        directory.mkdir(parents=True)
        try:
            wrong = [
                *_show_try_ons(stack, services[1], directory, out),
                *_show_webhooks(stack, shop, secret, out),
                *_show_turns(stack, out),
                *_show_size(stack, directory, out),
            ]
        finally:
            shutil.copytree(stack.logs, directory / "logs")
        _say(out, f"\nPictures and logs: {directory}")
        for complaint in wrong:
            _say(out, f"WRONG: {complaint}")
        _say(out, f"{'Not as expected' if wrong else 'All as expected'} after {_since(started)}.")
        if keep is not None:
            for service in stack.services:
                service.wait_ready()
            keep(stack)
    return 1 if wrong else 0


def _show_try_ons(stack: Stack, generator: Service, directory: Path, out: TextIO) -> list[str]:
    try_ons, before = _prepare(stack)
    _say(out, push_with_node(stack.redis_url, (t.job for t in try_ons)))
    _Progress(stack, generator, try_ons, out).follow()
    after = _balances(stack, before)
    _say(out, "")
    _print_table(stack, generator, try_ons, before=before, after=after, out=out)
    _say(out, "One user pays for b2c and blocked, one store for b2b and invalid; a refund costs nothing.")
    return [
        *_save_pictures(stack, try_ons, directory),
        *_wrong_outcomes(stack, try_ons),
        *_wrong_credits(try_ons, before, after),
    ]


def _show_turns(stack: Stack, out: TextIO) -> list[str]:
    """A user's try-on behind a store's many: it starts at its lane's turn. What waits then is cancelled."""
    app = stack.app
    store_id, user_id = app.create_store(credits=_STORE_JOBS), app.create_user(credits=CREDITS)
    of_store = [app.b2b_job(store_id) for _ in range(_STORE_JOBS)]
    first, second = app.b2c_job(user_id), app.b2c_job(user_id)
    app.push(*of_store, first, second)
    told = app.cancel(second, as_user=user_id)
    [row] = app.wait_settled(first, timeout=_SETTLES_WITHIN)
    cancelled = sum(app.cancel(job).verdict == "cancelled" for job in of_store)
    app.wait_settled(*of_store, timeout=_SETTLES_WITHIN)
    _say(
        out,
        f"\nlanes: a user's try-on, pushed behind {_STORE_JOBS} of a store, is {row['status']}"
        f" while {cancelled} of the store's still wait.",
    )
    user_has, store_has = app.balance(user_id), app.balance(store_id)
    _say(
        out,
        f"cancelled: the user's second try-on ({told.verdict}) and those {cancelled}, by the store:"
        f" credits are back, the user has {user_has} of {CREDITS}, the store {store_has} of {_STORE_JOBS}.",
    )
    wrong = []
    if row["status"] != "completed" or cancelled == 0:
        wrong.append("the user's try-on waited for the whole store")
    if (told.verdict, user_has) != ("cancelled", CREDITS - 1):
        wrong.append(f"the second try-on was {told.verdict}, and its user has {user_has} credits")
    if store_has != cancelled:
        wrong.append(f"{cancelled} of the store were cancelled, and it has {store_has} credits")
    return wrong


def _add_webhook(stack: Stack, shop: WebhookReceiver) -> str:
    """Have the shop told of all sessions, as an operator does; returns the secret it verifies with."""
    command = [
        sys.executable,
        "-m",
        "wearon_generator.operations.cli",
        "--json",
        "webhooks",
        "add",
        shop.origin,
    ]
    env = {**passed_on_environment(), **stack.env_for("generator")}
    added = subprocess.run(command, env=env, cwd=stack.directory, capture_output=True, text=True, check=True)
    return str(json.loads(added.stdout)["secret"])


def _show_webhooks(stack: Stack, shop: WebhookReceiver, secret: str, out: TextIO) -> list[str]:
    """What the shop was told of how the sessions ended, verified with the reference library."""
    sessions = [
        row for table in SESSION_TABLES.values() for row in stack.app.rows(f"select id, status from {table}")
    ]
    ended = {str(row["id"]): row["status"] for row in sessions}
    told: dict[str, str] = {}
    give_up_at = time.monotonic() + _WEBHOOKS_WITHIN
    while told.keys() != ended.keys() and time.monotonic() < give_up_at:
        time.sleep(0.1)
        events = [received.verified(secret) for received in shop.received("/")]
        told = {
            event["data"]["session_id"]: event["type"].removeprefix("generation.")
            for event in events
            if event["type"] != "generation.processing"
        }
    kinds = Counter(event["type"] for event in events)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    _say(out, f"\nwebhooks received and verified: {counted}")
    return [
        f"the webhook of {session} is {told.get(session)}, not {status}"
        for session, status in ended.items()
        if told.get(session) not in (status, "cancelled")
    ]


def _show_size(stack: Stack, directory: Path, out: TextIO) -> list[str]:
    picture = directory / "sizing-explained.png"
    command = [sys.executable, "-m", "wearon_sizing", "explain", str(SAMPLE_PERSON)]
    command += ["--height", SAMPLE_HEIGHT, "--output", str(picture)]
    env = {**passed_on_environment(), **stack.env_for("sizing-api")}
    sized = subprocess.run(
        command, env=env, cwd=directory, capture_output=True, text=True, timeout=_SIZES_WITHIN, check=False
    )
    if sized.returncode != 0 or not picture.exists():
        return [f"the sample person was not sized: {sized.stderr.strip()}"]
    size = sized.stdout.partition(",")[0]
    _say(out, f"\nsizing: the sample person, {SAMPLE_HEIGHT} cm tall, wears {size}; explained in {picture}")
    return []


def _prepare(stack: Stack) -> tuple[list[TryOn], dict[UUID, int]]:
    app = stack.app
    user_id, store_id = app.create_user(credits=CREDITS), app.create_store(credits=CREDITS)
    before = {user_id: app.balance(user_id), store_id: app.balance(store_id)}
    dressed = (SAMPLE_PERSON, SAMPLE_GARMENT, SAMPLE_ACCESSORY)
    sold = (SAMPLE_SHOP_PERSON, SAMPLE_SHOP_GARMENT)
    urls = app.upload_inputs(user_id, dressed)
    blocked = app.b2c_job(user_id, image_urls=urls, prompt="Dress them [[standin:moderation_blocked]]")
    invalid = app.b2b_job(store_id, image_urls=[app.sample_url(p) for p in sold])
    without_images = {name: value for name, value in invalid.task.items() if name != "image_urls"}
    return [
        TryOn("b2c", app.b2c_job(user_id, image_urls=urls), "completed", dressed),
        TryOn("b2b", app.b2b_job(store_id), "completed", sold),
        TryOn("blocked", blocked, "failed", dressed),
        TryOn("invalid", replace(invalid, task=without_images), "failed", ()),
    ], before


class _Progress:
    """Follows the jobs: a line per change, or on a terminal one line per job that is redrawn."""

    def __init__(self, stack: Stack, generator: Service, try_ons: list[TryOn], out: TextIO) -> None:
        self._stack = stack
        self._generator = generator
        self._try_ons = try_ons
        self._out = out
        self._redraw = out.isatty()
        self._shown: dict[str, tuple[str, float]] = {}
        self._drawn = False

    def follow(self) -> None:
        """Return when all are settled, or after the time in which they should be."""
        started = time.monotonic()
        while time.monotonic() - started < _SETTLES_WITHIN:
            statuses = self._stack.app.statuses(t.job for t in self._try_ons)
            events = self._generator.events()
            elapsed = time.monotonic() - started
            for try_on in self._try_ons:
                self._show(try_on.label, _state(try_on.job, statuses, events), elapsed)
            if self._redraw:
                self._draw()
            if SETTLED.issuperset(statuses.values()):
                return
            time.sleep(0.1)

    def _show(self, label: str, state: str, elapsed: float) -> None:
        last_state, _ = self._shown.get(label, (None, 0))
        if state != last_state and not self._redraw:
            _say(self._out, f"{elapsed:6.1f} s  {label:<8} {state}")
        if state != last_state or state not in SETTLED:
            self._shown[label] = (state, elapsed)

    def _draw(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{len(self._shown)}A")
        self._drawn = True
        for label, (state, elapsed) in self._shown.items():
            self._out.write(f"\x1b[2K{elapsed:6.1f} s  {label:<8} {state}\n")
        self._out.flush()


def _state(job: Job, statuses: dict[UUID, str], events: list[dict[str, Any]]) -> str:
    status = statuses[job.session_id]
    steps = [_STEPS[e["event"]] for e in _of(job, events) if e["event"] in _STEPS]
    return f"{status}: {steps[-1]}" if steps and status not in SETTLED else status


def _print_table(
    stack: Stack,
    generator: Service,
    try_ons: list[TryOn],
    *,
    before: dict[UUID, int],
    after: dict[UUID, int],
    out: TextIO,
) -> None:
    events = generator.events()
    steps = ("images s", "wait s", "OpenAI s", "store s")
    rows = [("job", "session", "status", "attempts", *steps, "credit", "payer", "payer's credits")]
    for try_on in try_ons:
        job = try_on.job
        row, ledger = stack.app.session(job), _ledger(stack, job)
        payer = "user" if job.channel == "b2c" else "store"
        rows.append(
            (
                try_on.label,
                str(job.session_id),
                row["status"],
                str(ledger.get("attempt", 0)),
                *_seconds_per_step(_of(job, events)),
                "spent" if row["status"] == "completed" else ledger.get("refund_state") or "kept",
                payer,
                f"{before[job.owner_id]} -> {after[job.owner_id]}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for index, cells in enumerate(rows):
        _say(out, "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        if index == 0:
            _say(out, "  ".join("-" * width for width in widths))
    _say(out, "")
    for try_on in try_ons:
        sentence = stack.app.session(try_on.job)["error_message"]
        if sentence:
            _say(out, f"{try_on.label}: {sentence}")


def _ledger(stack: Stack, job: Job) -> dict[str, Any]:
    """Empty if the job never came to a generator."""
    query = "select attempt, refund_state from generation_ledger where session_id = %s"
    known = stack.app.rows(query, job.session_id)
    return known[0] if known else {}


def _seconds_per_step(events: list[dict[str, Any]]) -> list[str]:
    at = {e["event"]: datetime.fromisoformat(e["timestamp"]) for e in events}
    ended = at.get("session_completed") or at.get("session_failed")
    steps = [
        (at.get("job_held"), at.get("images_ready")),
        (at.get("images_ready"), at.get("session_processing")),
        (at.get("session_processing"), at.get("provider_answered") or ended),
        (at.get("provider_answered"), at.get("session_completed")),
    ]
    return [f"{(end - start).total_seconds():.2f}" if start and end else "-" for start, end in steps]


def _save_pictures(stack: Stack, try_ons: list[TryOn], directory: Path) -> list[str]:
    wrong = []
    for try_on in try_ons:
        row = stack.app.session(try_on.job)
        if row["status"] != "completed":
            continue
        for number, picture in enumerate(try_on.inputs):
            shutil.copy(picture, directory / f"{try_on.label}-input-{number}{picture.suffix}")
        data = stack.app.download(row["generated_image_url"]).content
        (directory / f"{try_on.label}-result.jpg").write_bytes(data)
        if _format(data) != "JPEG":
            wrong.append(f"the result of {try_on.label} is no JPEG")
        if data in {p.read_bytes() for p in try_on.inputs}:
            wrong.append(f"the result of {try_on.label} is one of its inputs")
        if data != stack.app.stored(try_on.job):
            wrong.append(f"the link of {try_on.label} does not lead to {try_on.job.result_path}")
    return wrong


def _wrong_outcomes(stack: Stack, try_ons: list[TryOn]) -> list[str]:
    wrong = []
    for try_on in try_ons:
        status = stack.app.session(try_on.job)["status"]
        if status != try_on.expected:
            wrong.append(f"{try_on.label} is {status}, not {try_on.expected}")
    with stack.redis.client() as client:
        dead = client.llen(DEAD_LETTER_LIST)
    if dead != 1:
        wrong.append(f"{dead} dead letters, not the one of the invalid payload")
    return wrong


def _wrong_credits(try_ons: list[TryOn], before: dict[UUID, int], after: dict[UUID, int]) -> list[str]:
    wrong = []
    for owner_id, start in before.items():
        completed = sum(t.job.owner_id == owner_id and t.expected == "completed" for t in try_ons)
        if after[owner_id] != start - completed:
            wrong.append(f"credits: {start} - {completed} completed is not {after[owner_id]}")
    return wrong


def _balances(stack: Stack, owners: Iterable[UUID]) -> dict[UUID, int]:
    return {owner_id: stack.app.balance(owner_id) for owner_id in owners}


def _of(job: Job, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [e for e in events if e.get("session_id") == str(job.session_id)]


def _format(data: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.format
    except OSError:
        return None


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"


def _say(out: TextIO, text: str) -> None:
    print(text.rstrip("\n"), file=out, flush=True)
