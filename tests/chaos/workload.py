"""What is pushed: try-ons of every channel and way of paying, refused ones, invalid ones, duplicates."""

from __future__ import annotations

import io
import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

from PIL import Image

from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON, Job, NextApp

CREDITS: Final = 1000
"""Everybody's balance at the start, but for the store whose try-ons are overage."""

Ends = Literal["either", "failed", "dead"]
"""How an element may end: completed or failed; only failed; only in the dead letters."""


@dataclass(slots=True)
class Pushed:
    """One element of the queue and what is known about it."""

    label: str
    element: bytes
    job: Job | None
    ends: Ends = "either"
    readable: bool = True
    """Whether it is a valid task; others must be in the dead letters."""
    at: float = 0.0

    @property
    def session(self) -> str | None:
        return str(self.job.session_id) if self.job else None


@dataclass(slots=True)
class Accounts:
    """Who pays."""

    users: list[UUID]
    absorbing: UUID
    overdrawn: UUID
    reselling: UUID
    shoppers: list[str]
    leaving: UUID
    """A store that will be uninstalled."""
    forgotten: UUID
    """A user who will be deleted."""
    deleted: set[UUID] = field(default_factory=set)
    """Users who have been."""

    @property
    def mine(self) -> set[UUID]:
        return {*self.users, self.absorbing, self.overdrawn, self.reselling, self.leaving, self.forgotten}


# A directive for the OpenAI stand-in, how often per 100 jobs, and whether the try-on can succeed at all.
_PROMPTS: Final[list[tuple[str, int, bool]]] = [
    ("", 64, True),
    ("moderation_blocked", 6, False),
    ("rate_limit_once=1", 5, True),
    ("rate_limit_once", 2, True),
    ("rate_limit=1", 2, False),
    ("500_once", 4, True),
    ("503_twice", 2, True),
    ("500", 2, False),
    ("drop_once", 3, True),
    ("hang_once", 2, True),
    ("slow=3", 4, True),
    ("bad_base64", 1, False),
    ("no_data", 1, False),
    ("bad_picture", 1, False),
    ("400", 1, False),
]


def small(picture: Any, side: int = 240) -> bytes:
    """A small JPEG of a sample, so that the machine's time goes into faults rather than pixels."""
    with Image.open(picture) as image:
        image.thumbnail((side, side))
        out = io.BytesIO()
        image.convert("RGB").save(out, "JPEG", quality=80)
    return out.getvalue()


class Workload:
    """Makes elements by chance; each has its session row and its deduction when it is returned."""

    def __init__(self, app: NextApp, chance: random.Random) -> None:
        self._app = app
        self._chance = chance
        self.pushed: list[Pushed] = []
        self.accounts = Accounts(
            users=[app.create_user(credits=CREDITS) for _ in range(6)],
            absorbing=app.create_store(credits=CREDITS),
            overdrawn=app.create_store(credits=0),
            reselling=app.create_store(credits=CREDITS, billing_mode="resell_mode"),
            shoppers=[],
            leaving=app.create_store(credits=CREDITS),
            forgotten=app.create_user(credits=CREDITS),
        )
        self.accounts.shoppers = [
            app.create_shopper(self.accounts.reselling, credits=CREDITS) for _ in range(3)
        ]
        pictures = [small(SAMPLE_PERSON), small(SAMPLE_GARMENT)]
        self._uploads = {
            user: [app.upload(f"uploads/{user}/{number}.jpg", p) for number, p in enumerate(pictures)]
            for user in (*self.accounts.users, self.accounts.forgotten)
        }
        self._kinds: list[tuple[int, Callable[[], Pushed]]] = [
            (40, self._b2c),
            (16, self._absorb),
            (14, self._resell),
            (10, self._overage),
            (4, self._aged),
            (2, self._without_request_id),
            (3, self._leaving_store),
            (3, self._forgotten_user),
            (2, self._expired_input),
            (2, self._missing_input),
            (2, self._invalid_with_session),
            (1, self._unknown_version),
            (1, self._too_large),
            (1, self._not_json),
            (1, self._unknown_session),
            (1, self._owner_mismatch),
        ]

    def push(self) -> Pushed:
        """Make one element and push it; some are pushed again, as they are or under a new task id."""
        weights, makers = zip(*self._kinds, strict=True)
        (maker,) = self._chance.choices(makers, weights)
        made = maker()
        self._push(made)
        if made.job is not None and made.readable and self._chance.random() < 0.06:
            again = made.element
            if self._chance.random() < 0.5:
                again = _element({**made.job.task, "task_id": str(uuid.uuid4())})
            self._push(Pushed(f"{made.label} again", again, made.job, made.ends))
        return made

    def make_b2c(self, words: str = "") -> Pushed:
        """One try-on of a user with this directive for the stand-in, not pushed yet."""
        return self._b2c(words)

    def make_forgotten(self, words: str = "") -> Pushed:
        """One of a user who will be deleted, not pushed yet."""
        return self._b2c(words, user=self.accounts.forgotten)

    def make_from_shop(self, url: str) -> Pushed:
        """One of a store, its picture at this address, not pushed yet."""
        job = self._app.b2b_job(self.accounts.absorbing, prompt=_with_mark(""), image_urls=[url])
        return Pushed("b2b from a shop", _element(job.task), job)

    def make_invalid(self) -> Pushed:
        """One whose session can be read, not pushed yet."""
        return self._invalid_with_session()

    def push_made(self, made: Pushed) -> None:
        """Push what was made before."""
        self._push(made)

    def push_b2c(self, words: str = "") -> Pushed:
        """Make and push one."""
        made = self._b2c(words)
        self._push(made)
        return made

    def _push(self, made: Pushed) -> None:
        self.pushed.append(made)
        made.at = time.time()
        self._app.push_raw(made.element)

    # ------------------------------------------------------------------ kinds

    def _prompt(self) -> tuple[str, Ends]:
        ((words, _, may_succeed),) = self._chance.choices(_PROMPTS, [weight for _, weight, _ in _PROMPTS])
        return _with_mark(words), "either" if may_succeed else "failed"

    def _b2c(self, words: str | None = None, label: str = "b2c", user: UUID | None = None) -> Pushed:
        prompt, ends = (self._prompt()) if words is None else (_with_mark(words), "either")
        user = user or self._chance.choice(self.accounts.users)
        urls = [self._app.sign(path) for path in self._uploads[user]]
        job = self._app.b2c_job(user, image_urls=urls, prompt=prompt)
        return Pushed(label, _element(job.task), job, ends)  # type: ignore[arg-type]

    def _b2b(self, label: str, store: UUID, shopper: str | None = None) -> Pushed:
        prompt, ends = self._prompt()
        job = self._app.b2b_job(store, shopper_email=shopper, prompt=prompt)
        return Pushed(label, _element(job.task), job, ends)

    def _absorb(self) -> Pushed:
        return self._b2b("b2b absorb", self.accounts.absorbing)

    def _resell(self) -> Pushed:
        return self._b2b("b2b resell", self.accounts.reselling, self._chance.choice(self.accounts.shoppers))

    def _overage(self) -> Pushed:
        return self._b2b("b2b overage", self.accounts.overdrawn)

    def _leaving_store(self) -> Pushed:
        return self._b2b("b2b of a leaving store", self.accounts.leaving)

    def _forgotten_user(self) -> Pushed:
        there = self.accounts.forgotten not in self.accounts.deleted
        return self._b2c(label="b2c of a forgotten user", user=self.accounts.forgotten if there else None)

    def _without_request_id(self) -> Pushed:
        made = self._b2b("b2b without request_id", self.accounts.absorbing)
        assert made.job
        self._app.rows(
            "update store_generation_sessions set request_id = null where id = %s returning id",
            made.job.session_id,
        )
        return made

    def _aged(self) -> Pushed:
        """One that has waited long enough for the application's cron."""
        made = self._b2c(label="b2c aged")
        assert made.job
        self._app.rows(
            "update generation_sessions set created_at = now() - interval '11 minutes' where id = %s"
            " returning id",
            made.job.session_id,
        )
        return made

    def _expired_input(self) -> Pushed:
        made = self._b2c("", label="b2c expired link")
        assert made.job
        user = made.job.owner_id
        urls = [self._app.sign(path, seconds=-60) for path in self._uploads[user]]
        return Pushed(made.label, _element({**made.job.task, "image_urls": urls}), made.job, "failed")

    def _missing_input(self) -> Pushed:
        job = self._app.b2b_job(
            self.accounts.absorbing,
            prompt=_with_mark(""),
            image_urls=[self._app.sample_url(SAMPLE_PERSON.with_name("no-such.jpg"))],
        )
        return Pushed("b2b missing picture", _element(job.task), job, "failed")

    def _invalid_with_session(self) -> Pushed:
        made = self._b2c("", label="invalid, session readable")
        assert made.job
        element = _element({**made.job.task, "image_urls": []})
        return Pushed(made.label, element, made.job, "failed", readable=False)

    def _unknown_version(self) -> Pushed:
        made = self._b2c("", label="unknown version")
        assert made.job
        return Pushed(made.label, _element({**made.job.task, "version": 2}), made.job, "failed", False)

    def _too_large(self) -> Pushed:
        made = self._b2c("", label="too large")
        assert made.job
        return Pushed(made.label, _element({**made.job.task, "x": "x" * 70_000}), made.job, "failed", False)

    def _not_json(self) -> Pushed:
        return Pushed("not JSON", b"\xff\xfe{" + uuid.uuid4().hex.encode(), None, "dead", readable=False)

    def _unknown_session(self) -> Pushed:
        """Valid, but its session does not exist."""
        task = {**self._b2c_task(), "session_id": str(uuid.uuid4())}
        return Pushed("no session", _element(task), None, "dead", readable=False)

    def _owner_mismatch(self) -> Pushed:
        """Of somebody else's session, which fails."""
        made = self._b2c("", label="wrong owner")
        assert made.job
        element = _element({**made.job.task, "user_id": str(uuid.uuid4())})
        return Pushed(made.label, element, made.job, "failed", readable=False)

    def _b2c_task(self) -> dict[str, Any]:
        return {
            "task_id": str(uuid.uuid4()),
            "channel": "b2c",
            "user_id": str(self.accounts.users[0]),
            "image_urls": ["https://example.com/a.jpg"],
            "prompt": "",
            "request_id": f"req-{uuid.uuid4()}",
            "created_at": "2026-01-02T03:04:05.678Z",
        }


def _with_mark(words: str) -> str:
    """A prompt with a directive and a mark by which the stand-in's record of a call finds its session."""
    directive = f"[[standin:{words}]] " if words else ""
    return f"{directive}mark-{uuid.uuid4().hex}"


def _element(task: dict[str, Any]) -> bytes:
    return json.dumps(task, ensure_ascii=False, separators=(",", ":")).encode()
