"""Pictures older than the settings allow are deleted, and no others, whoever else is at work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry
from psycopg.types.json import Jsonb
from structlog.testing import capture_logs
from supabase import AsyncClient
from tests.integration.tryons import TryOn, TryOns, start_generators

from wearon_generator.bootstrap import SUPABASE_CONNECTIONS
from wearon_generator.ledger import Database, SupabaseDatabase
from wearon_generator.metrics import Metrics
from wearon_generator.operations.cli import main
from wearon_generator.retention import BATCH, Batch, Limits, Retention, RetentionSweeper
from wearon_generator.storage import SupabaseBucket
from wearon_generator.supabase_client import StatementTimeout, connect_supabase
from wearon_generator.timing import Timing
from wearon_local.app.next_app import SAMPLE_PERSON
from wearon_local.processes import wait_until
from wearon_local.services import Service
from wearon_local.stack import BUCKET, Stack
from wearon_local.standins.object_store import ObjectStore
from wearon_service_kit.environment import Proxies

HOURS = 6
EXPIRED = "expired"
"""What the application writes over a link that leads nowhere any more."""


@pytest.fixture(scope="module")
def generator(stack: Stack) -> Service:
    stack.start_service("consumer")
    return stack.start_service("generator")


@pytest.fixture
def tryons(stack: Stack, generator: Service) -> TryOns:
    return TryOns(stack)


@pytest.fixture
def database(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    with stack.postgres.connect() as connection:
        connection.autocommit = True
        yield connection


def client_of(stack: Stack) -> AsyncClient:
    return connect_supabase(
        stack.gateway_url, stack.service_role_key, connections=SUPABASE_CONNECTIONS, proxies=Proxies()
    )


def sweeper_of(
    client: AsyncClient, database: Database, limits: Limits, metrics: Metrics | None = None
) -> RetentionSweeper:
    return RetentionSweeper(
        Retention(database, BUCKET),
        SupabaseBucket(client, BUCKET),
        limits,
        is_elected=lambda: True,
        metrics=metrics or Metrics(CollectorRegistry()),
        timing=Timing(retention_interval=0.5),
    )


def sweep(
    stack: Stack,
    *,
    results: int | None = HOURS,
    inputs: int | None = None,
    through: Callable[[AsyncClient], Database] = SupabaseDatabase,
) -> Metrics:
    """What the elected generator does once; gives its metrics."""
    metrics = Metrics(CollectorRegistry())

    async def work() -> None:
        client = client_of(stack)
        sweeper = sweeper_of(client, through(client), Limits(results, inputs), metrics)
        await sweeper.sweep("result")
        await sweeper.sweep("input")

    asyncio.run(work())
    return metrics


def make_old(database: psycopg.Connection[Any], *tryons: TryOn, hours: int = HOURS + 1) -> None:
    """Let these have been settled so long ago."""
    database.execute(
        "update generation_ledger set settled_at = now() - make_interval(hours => %s)"
        " where session_id = any (%s)",
        [hours, [tryon.job.session_id for tryon in tryons]],
    )


def names(stack: Stack) -> set[str]:
    return {str(stored["name"]) for stored in stack.gateway.objects()}


def test_an_old_result_is_deleted_and_its_row_says_expired(
    stack: Stack, tryons: TryOns, database: psycopg.Connection[Any]
) -> None:
    user, store, young, failed = (
        tryons.order(),
        tryons.order("store"),
        tryons.order(),
        tryons.order(prompt="[[standin:moderation_blocked]]"),
    )
    tryons.wait_settled(user, store, young, failed)
    make_old(database, user, store, failed)
    before = names(stack)

    sweep(stack)

    assert before - names(stack) == {user.job.result_path, store.job.result_path}
    for tryon in (user, store):
        row, entry = tryons.row(tryon), tryons.entry(tryon)
        assert (row["status"], row["generated_image_url"]) == ("completed", EXPIRED)
        assert entry is not None and entry["result_deleted_at"] is not None
    assert tryons.row(young)["generated_image_url"].startswith("http")
    assert tryons.row(failed)["generated_image_url"] is None


def test_a_result_that_a_running_tryon_is_made_from_stays_until_that_has_ended(
    stack: Stack, tryons: TryOns, database: psycopg.Connection[Any]
) -> None:
    """Its link stands in the row of one that waits for its retry, and only in the task of the other."""
    first, second, third = tryons.order(), tryons.order(), tryons.order()
    tryons.wait_settled(first, second, third)
    make_old(database, first, second, third)
    by_row = stack.app.b2c_job(first.job.owner_id, image_urls=tryons.inputs())
    database.execute(
        "update generation_sessions set model_image_url = %s, status = 'processing' where id = %s",
        [stack.app.sign(first.job.result_path), by_row.session_id],
    )
    by_task = stack.app.b2c_job(second.job.owner_id, image_urls=[stack.app.sign(second.job.result_path)])
    database.execute(
        "insert into generation_ledger (channel, session_id, owner_id, task, state, lease_expires_at)"
        " values ('b2c', %s, %s, %s, 'retrying', now() + interval '1 hour')",
        [by_task.session_id, by_task.owner_id, Jsonb(by_task.task)],
    )
    database.execute("update generation_sessions set status = 'queued' where id = %s", [by_task.session_id])
    before = names(stack)

    sweep(stack)
    assert before - names(stack) == {third.job.result_path}

    database.execute(
        "update generation_sessions set status = 'failed' where id = any (%s)",
        [[by_row.session_id, by_task.session_id]],
    )
    database.execute(
        "update generation_ledger set state = 'settled', outcome = 'failed', lease_expires_at = null,"
        " settled_at = now() where session_id = %s",
        [by_task.session_id],
    )
    sweep(stack)
    assert before - names(stack) == {tryon.job.result_path for tryon in (first, second, third)}


def test_old_inputs_of_ones_own_are_deleted_and_shared_ones_and_those_in_use_stay(
    stack: Stack, tryons: TryOns, database: psycopg.Connection[Any]
) -> None:
    app = stack.app
    user = app.create_user()
    own = [
        app.upload(f"uploads/{user}/{name}.jpg", SAMPLE_PERSON)
        for name in ("person", "again", "garm\u0020ent")
    ]
    shared = app.upload("catalogue/garment.jpg", SAMPLE_PERSON)
    old, newer = (app.b2c_job(user, image_urls=tryons.inputs()) for _ in range(2))
    app.push(old, newer)
    app.wait_settled(old, newer)
    database.execute(
        "update generation_sessions set model_image_url = %s, outfit_image_url = %s, accessories = %s"
        " where id = %s",
        [
            app.sign(own[0]),
            app.sign(shared),
            Jsonb([{"url": app.sign(own[2])}]),
            old.session_id,
        ],
    )
    database.execute(
        "update generation_sessions set model_image_url = %s where id = %s",
        [app.sign(own[1]), newer.session_id],
    )
    database.execute(
        "update generation_ledger set settled_at = now() - interval '7 hours' where session_id = %s",
        [old.session_id],
    )
    before = names(stack)

    sweep(stack, results=None, inputs=HOURS)

    assert before - names(stack) == {own[0], own[2]}
    row = app.session(old)
    assert (row["model_image_url"], row["accessories"]) == (EXPIRED, [{"url": EXPIRED}])
    assert row["outfit_image_url"].startswith("http")
    assert row["generated_image_url"].startswith("http"), "results have a setting of their own"
    entry = app.rows("select inputs_deleted_at from generation_ledger where session_id = %s", old.session_id)
    assert entry[0]["inputs_deleted_at"] is not None


def test_an_input_that_a_younger_tryon_was_made_from_stays(
    stack: Stack, tryons: TryOns, database: psycopg.Connection[Any]
) -> None:
    app = stack.app
    user = app.create_user()
    person = app.upload(f"uploads/{user}/person.jpg", SAMPLE_PERSON)
    old, young = (app.b2c_job(user, image_urls=tryons.inputs()) for _ in range(2))
    app.push(old, young)
    app.wait_settled(old, young)
    database.execute(
        "update generation_sessions set model_image_url = %s where user_id = %s", [app.sign(person), user]
    )
    database.execute(
        "update generation_ledger set settled_at = now() - interval '7 hours' where session_id = %s",
        [old.session_id],
    )

    sweep(stack, results=None, inputs=HOURS)
    assert person in names(stack)

    database.execute("update generation_ledger set settled_at = now() - interval '7 hours'")
    sweep(stack, results=None, inputs=HOURS)
    assert person not in names(stack)


def test_a_row_that_the_application_has_locked_waits_for_the_next_sweep(
    stack: Stack, tryons: TryOns, database: psycopg.Connection[Any]
) -> None:
    tryon = tryons.order()
    tryons.wait_settled(tryon)
    make_old(database, tryon)
    with stack.postgres.connect() as application, application.transaction():
        application.execute(
            "select from generation_sessions where id = %s for update", [tryon.job.session_id]
        )
        sweep(stack)
        entry = tryons.entry(tryon)
        assert entry is not None and entry["result_deleted_at"] is None

    sweep(stack)
    entry = tryons.entry(tryon)
    assert entry is not None and entry["result_deleted_at"] is not None
    assert tryons.row(tryon)["generated_image_url"] == EXPIRED


def test_without_the_settings_nothing_is_deleted(
    stack: Stack, tryons: TryOns, database: psycopg.Connection[Any]
) -> None:
    tryon = tryons.order()
    tryons.wait_settled(tryon)
    make_old(database, tryon, hours=10_000)
    before = names(stack)

    sweep(stack, results=None, inputs=None)

    assert names(stack) == before


def test_wearonctl_shows_what_would_go_what_is_gone_and_what_no_session_knows(
    stack: Stack,
    tryons: TryOns,
    database: psycopg.Connection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # no .env file is read
    gone, due, erased = tryons.order(), tryons.order("store"), tryons.order()
    tryons.wait_settled(gone, due, erased)
    make_old(database, gone)
    sweep(stack)
    make_old(database, due)
    for table in ("generation_sessions", "generation_ledger"):
        column = "id" if table == "generation_sessions" else "session_id"
        database.execute(f"delete from {table} where {column} = %s", [erased.job.session_id])
    before = names(stack)

    def ask(*arguments: str) -> Any:
        env = {**stack.env_for("generator"), "RESULT_RETENTION_HOURS": str(HOURS)}
        result = CliRunner(env=env).invoke(main, ["--json", "retention", *arguments])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    shown = ask()
    assert (shown["hours"], shown["inputs"]) == ({"results": HOURS, "inputs": None}, None)
    assert (shown["results"]["due"], shown["next"], shown["kept"]) == (1, [due.job.result_path], [])
    assert shown["gone"]["results"] >= 1
    left = ask("--leftovers")
    assert erased.job.result_path in left["without_session"]
    assert due.job.result_path not in left["without_session"]
    assert names(stack) == before, "it only looks"


# ------------------------------------------------------------------------------------- what users write


def ended_session(
    database: psycopg.Connection[Any], user: UUID, *, hours: int, accessories: str = "null", link: str = "x"
) -> UUID:
    """A session that ended so long ago, with this link to its person; `accessories` is SQL."""
    session = uuid4()
    database.execute(
        "insert into generation_sessions (id, user_id, status, model_image_url, prompt_system, accessories)"
        f" values (%s, %s, 'failed', %s, '', {accessories})",
        [session, user, link],
    )
    database.execute(
        "insert into generation_ledger (channel, session_id, owner_id, state, outcome, settled_by,"
        " settled_at) values ('b2c', %s, %s, 'settled', 'failed', 'worker', now() - %s * interval '1 hour')",
        [session, user, hours],
    )
    return session


def is_noted(stack: Stack, session: UUID) -> bool:
    (entry,) = stack.app.rows(
        "select inputs_deleted_at from generation_ledger where session_id = %s", session
    )
    return entry["inputs_deleted_at"] is not None


def nested(levels: int) -> str:
    return f"(repeat('[', {levels}) || '\"x\"' || repeat(']', {levels}))::jsonb"


def link_to(name: str) -> str:
    """SQL of a link into the folder of `{user}`; `name` is SQL too."""
    return f"('http://x.example/storage/v1/object/sign/images/uploads/{{user}}/' || {name} || '?token=x')"


ODD_ACCESSORIES = {
    "nested 1,200 deep": nested(1_200),
    "nested 5,000 deep": nested(5_000),
    "a string of 15 MB": "jsonb_build_array(repeat('x', 15000000))",
    "a link of 15 MB": "jsonb_build_array(" + link_to("repeat('x', 15000000)") + ")",
    "3,000 links": f"(select jsonb_agg({link_to('n')}) from generate_series(1, 3000) n)",
    "a million zeros": "('[0' || repeat(',0', 1000000) || ']')::jsonb",
    "a NUL in a link": "jsonb_build_array(" + link_to("'a%%00b.jpg'") + ")",
}


@pytest.mark.parametrize("accessories", ODD_ACCESSORIES.values(), ids=ODD_ACCESSORIES.keys())
def test_what_one_user_writes_to_rows_holds_up_nobody_elses_pictures(
    stack: Stack, database: psycopg.Connection[Any], accessories: str
) -> None:
    """In rows that are due, and in one that is not settled, whose links are asked for too."""
    odd, other = stack.app.create_user(), stack.app.create_user()
    for _ in range(20):
        ended_session(database, odd, hours=HOURS + 2, accessories=accessories.format(user=odd))
    database.execute(
        "insert into generation_sessions (user_id, status, model_image_url, prompt_system, accessories)"
        f" values (%s, 'queued', '', '', {accessories.format(user=odd)})",
        [odd],
    )
    picture = stack.app.upload(f"uploads/{other}/person.jpg", SAMPLE_PERSON)
    behind = ended_session(database, other, hours=HOURS + 1, link=stack.app.sign(picture))

    sweep(stack, inputs=HOURS)

    assert is_noted(stack, behind)
    assert picture not in names(stack)


def test_more_pictures_than_storage_takes_in_one_request_are_deleted(
    stack: Stack, database: psycopg.Connection[Any]
) -> None:
    user = stack.app.create_user()
    many = f"(select jsonb_agg({link_to('gen_random_uuid()')}) from generate_series(1, 80) n)"
    sessions = [
        ended_session(database, user, hours=HOURS + 1, accessories=many.format(user=user)) for _ in range(20)
    ]

    metrics = sweep(stack, inputs=HOURS)

    assert all(is_noted(stack, session) for session in sessions)
    assert metrics.pictures_deleted.labels(kind="input")._value.get() == 1_600


def test_own_pictures_deep_in_a_row_are_deleted_and_read_expired(
    stack: Stack, database: psycopg.Connection[Any]
) -> None:
    user = stack.app.create_user()
    picture = stack.app.upload(f"uploads/{user}/hat.jpg", SAMPLE_PERSON)
    link = stack.app.sign(picture)
    session = ended_session(database, user, hours=HOURS + 1)
    written = {"a": [{"b": [[{"url": link, "again": f"{link}&x"}, 'quoted "link"']]}], "n": 1}
    database.execute(
        "update generation_sessions set accessories = %s where id = %s", [Jsonb(written), session]
    )

    sweep(stack, inputs=HOURS)

    assert picture not in names(stack)
    (row,) = stack.app.rows("select accessories from generation_sessions where id = %s", session)
    assert row["accessories"] == {
        "a": [{"b": [[{"url": EXPIRED, "again": EXPIRED}, 'quoted "link"']]}],
        "n": 1,
    }


def test_a_session_that_cannot_be_done_is_told_and_the_others_are_done(
    stack: Stack, database: psycopg.Connection[Any]
) -> None:
    """As where a trigger of the application's refuses the update of one row."""
    user = stack.app.create_user()
    sessions = []
    for number in range(5):
        link = stack.app.sign(stack.app.upload(f"uploads/{user}/{number}.jpg", SAMPLE_PERSON))
        sessions.append(ended_session(database, user, hours=HOURS + 1, link=link))
    bad = sessions[2]
    database.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'not this one'; end $$"
    )
    database.execute(
        "create trigger refuse before update on generation_sessions for each row"
        f" when (old.id = '{bad}') execute function refuse()"
    )
    try:
        with capture_logs() as logs:
            sweep(stack, inputs=HOURS)
    finally:
        database.execute("drop function refuse() cascade")

    assert [is_noted(stack, session) for session in sessions] == [True, True, False, True, True]
    assert [entry["session_id"] for entry in logs if entry["log_level"] == "warning"] == [str(bad)]


def test_a_status_that_a_user_writes_to_an_ended_session_keeps_no_pictures(
    stack: Stack, database: psycopg.Connection[Any]
) -> None:
    user = stack.app.create_user()
    picture = stack.app.upload(f"uploads/{user}/person.jpg", SAMPLE_PERSON)
    session = ended_session(database, user, hours=HOURS + 1, link=stack.app.sign(picture))
    for status in ("queued", "processing"):
        again = ended_session(database, user, hours=HOURS + 1, link=stack.app.sign(picture))
        database.execute("update generation_sessions set status = %s where id = %s", [status, again])

    sweep(stack, inputs=HOURS)

    assert is_noted(stack, session)
    assert picture not in names(stack)


@pytest.mark.parametrize(
    "columns",
    [
        "model_image_url = {link}",
        "stitched_image_url = {link}",
        "accessories = jsonb_build_array({link})",
    ],
)
@pytest.mark.parametrize("name", ["person.jpg", "per son.jpg"])
def test_a_picture_stays_wherever_a_younger_session_names_it(
    stack: Stack, database: psycopg.Connection[Any], name: str, columns: str
) -> None:
    user = stack.app.create_user()
    picture = stack.app.upload(f"uploads/{user}/{name}", SAMPLE_PERSON)
    old = ended_session(database, user, hours=HOURS + 1, link=stack.app.sign(picture))
    young = ended_session(database, user, hours=HOURS - 1)
    link = stack.app.sign(picture)
    database.execute(
        f"update generation_sessions set {columns.format(link='%s::text')} where id = %s", [link, young]
    )

    sweep(stack, inputs=HOURS)
    assert not is_noted(stack, old)
    assert picture in names(stack)

    database.execute(
        "update generation_ledger set settled_at = now() - interval '7 hours' where session_id = %s", [young]
    )
    sweep(stack, inputs=HOURS)
    assert picture not in names(stack)


def test_pictures_in_a_bucket_with_a_space_in_its_name_are_found(
    stack: Stack, database: psycopg.Connection[Any]
) -> None:
    user = stack.app.create_user()
    folder = f"http://x.example/storage/v1/object/sign/my%20pictures/uploads/{user}"
    for name in ("mine", "waiting"):
        ended_session(database, user, hours=HOURS + 1, link=f"{folder}/{name}.jpg?token=x")
    database.execute(
        "insert into generation_sessions (user_id, status, model_image_url, prompt_system)"
        " values (%s, 'queued', %s, '')",
        [user, f"{folder}/waiting.jpg?token=x"],
    )

    async def look() -> Batch:
        retention = Retention(SupabaseDatabase(client_of(stack)), "my pictures")
        due = [one for one in await retention.due("input", HOURS) if one["owner_id"] == str(user)]
        return await retention.batch("input", HOURS, due)

    batch = asyncio.run(look())
    assert (batch.paths, batch.kept) == ([f"uploads/{user}/mine.jpg"], [f"uploads/{user}/waiting.jpg"])


class SlowFor(SupabaseDatabase):
    """A database that does not tell in time what one owner needs."""

    def __init__(self, client: AsyncClient, owner: UUID) -> None:
        super().__init__(client)
        self._owner = str(owner)
        self.asked: list[list[str]] = []

    async def call(self, function: str, params: dict[str, Any]) -> Any:
        if function == "generation_linked_pictures":
            self.asked.append(params["p_owners"])
            if self._owner in params["p_owners"]:
                raise StatementTimeout("database: canceling statement due to statement timeout (57014)")
        return await super().call(function, params)


def test_an_owner_of_whom_the_database_cannot_tell_in_time_holds_up_nobody_else(
    stack: Stack, database: psycopg.Connection[Any]
) -> None:
    """It is not asked again for each session, but once in a sweep."""
    slow, other, without = (stack.app.create_user() for _ in range(3))
    pictures = {user: stack.app.upload(f"uploads/{user}/person.jpg", SAMPLE_PERSON) for user in (slow, other)}
    of_slow = [
        ended_session(database, slow, hours=HOURS + 2, link=stack.app.sign(pictures[slow]))
        for _ in range(BATCH + 1)
    ]
    of_others = [
        ended_session(database, other, hours=HOURS + 3, link=stack.app.sign(pictures[other])),
        ended_session(database, without, hours=HOURS + 1, link="https://shop.example/a.jpg"),
    ]
    asked: list[SlowFor] = []

    def slowed(client: AsyncClient) -> Database:
        asked.append(SlowFor(client, slow))
        return asked[-1]

    with capture_logs() as logs:
        sweep(stack, results=None, inputs=HOURS, through=slowed)

    assert not any(is_noted(stack, session) for session in of_slow)
    assert all(is_noted(stack, session) for session in of_others)
    assert pictures[slow] in names(stack) and pictures[other] not in names(stack)
    assert [entry["owner_id"] for entry in logs if entry["log_level"] == "warning"] == [str(slow)]
    assert asked[0].asked.count([str(slow)]) == 1
    owners = {owner for question in asked[0].asked for owner in question}
    assert str(without) not in owners, "none of its pictures are in our bucket"


@pytest.mark.slow
def test_a_store_with_many_sessions_of_late_does_not_hold_up_its_own_pictures(
    stack: Stack, database: psycopg.Connection[Any]
) -> None:
    """100,000, of whose pictures the shop is the host. Asked about each of them, the database is too slow."""
    store = stack.app.create_store(credits=1)
    picture = stack.app.upload(f"stores/{store}/uploads/person.jpg", SAMPLE_PERSON)
    database.execute(
        "create temporary table many as select gen_random_uuid() as id, n from generate_series(0, 100000) n"
    )
    database.execute(
        "insert into store_generation_sessions (id, store_id, status, prompt_system, model_image_url,"
        " outfit_image_url) select id, %s, 'failed', '', case n when 0 then %s else"
        " 'https://shop.example/' || n || '.jpg' end, 'https://shop.example/dress.jpg' from many",
        [store, stack.app.sign(picture)],
    )
    database.execute(
        "insert into generation_ledger (channel, session_id, owner_id, state, outcome, settled_by,"
        " settled_at)"
        " select 'b2b', id, %s, 'settled', 'failed', 'worker',"
        " now() - case n when 0 then interval '7 hours' else n * interval '0.1 second' end from many",
        [store],
    )
    database.execute("analyze store_generation_sessions, generation_ledger")
    try:
        with capture_logs() as logs:
            sweep(stack, results=None, inputs=HOURS)
    finally:
        database.execute("delete from store_generation_sessions where id in (select id from many)")
        database.execute("delete from generation_ledger where session_id in (select id from many)")

    assert picture not in names(stack)
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []


def test_results_go_though_the_inputs_cannot_be_told(
    stack: Stack, tryons: TryOns, database: psycopg.Connection[Any]
) -> None:
    asked = asyncio.Event()

    class Stuck(SupabaseDatabase):
        async def call(self, function: str, params: dict[str, Any]) -> Any:
            if function == "generation_inputs_due":
                asked.set()
                await asyncio.Event().wait()
            return await super().call(function, params)

    tryon = tryons.order()
    tryons.wait_settled(tryon)

    async def work() -> None:
        client = client_of(stack)
        sweeper = sweeper_of(client, Stuck(client), Limits(HOURS, HOURS))
        sweeper.start()
        await asyncio.wait_for(asked.wait(), 10)
        make_old(database, tryon)
        await asyncio.to_thread(
            wait_until, lambda: tryon.job.result_path not in names(stack), timeout=10, what="it is deleted"
        )
        await sweeper.stop()

    asyncio.run(work())


# ------------------------------------------------------------------------------------- many, and killed


def many_results(
    stack: Stack, database: psycopg.Connection[Any], old: int, young: int
) -> tuple[set[str], set[str]]:
    """Results of 500 users in the books and in Storage; the paths of the old and of the young ones.

    Their sessions stand in the temporary table `made`.
    """
    database.execute(
        "create temporary table made as select gen_random_uuid() as id, n, n > %s as young,"
        " ('00000000-0000-4000-8000-' || lpad((n %% 500)::text, 12, '0'))::uuid as user_id"
        " from generate_series(1, %s) n",
        [old, old + young],
    )
    database.execute(
        "insert into generation_sessions (id, user_id, status, model_image_url, prompt_system,"
        " generated_image_url, created_at) select id, user_id, 'completed', '', '',"
        " 'https://x.example/signed', now() - interval '40 hours' from made"
    )
    database.execute(
        "insert into generation_ledger (channel, session_id, owner_id, state, outcome, settled_by,"
        " settled_at, object_path) select 'b2c', id, user_id, 'settled', 'completed', 'worker', now() -"
        " case when young then interval '5 hours' else interval '7 hours' + n * interval '1 second' end,"
        " format('generated/%s/%s.jpg', user_id, id) from made"
    )
    rows = database.execute("select format('generated/%s/%s.jpg', user_id, id), young from made").fetchall()
    paths = {False: set[str](), True: set[str]()}
    for path, is_young in rows:
        paths[is_young].add(path)

    # Straight into the stand-in's files: so many uploads would take longer than all the rest.
    stack.gateway.kill()
    store = ObjectStore(stack.directory / "storage")
    for path in (*paths[False], *paths[True]):
        store.put(BUCKET, path, b"x", content_type="image/jpeg", cache_control="")
    stack.gateway.start()
    return paths[False], paths[True]


def last_deletion(replica: Service) -> str:
    """When it last deleted a batch; empty if it never did."""
    return max((str(event["timestamp"]) for event in replica.events(event="pictures_deleted")), default="")


@pytest.mark.parametrize(
    ("old_ones", "young_ones"),
    [
        pytest.param(8_000, 2_000, marks=pytest.mark.slow),
        pytest.param(40_000, 10_000, marks=[pytest.mark.full, pytest.mark.timeout(900)]),
    ],
)
def test_old_ones_of_many_results_go_though_the_sweeper_is_killed_and_the_apps_cron_runs(
    stack: Stack, database: psycopg.Connection[Any], old_ones: int, young_ones: int
) -> None:
    stack.stop_services()  # one without the setting might be elected
    sweep(stack)  # of what the tests before left
    others = names(stack)
    old, young = many_results(stack, database, old_ones, young_ones)

    def noted() -> int:
        row = database.execute(
            "select count(*) from generation_ledger where result_deleted_at is not null"
        ).fetchone()
        assert row is not None
        return int(row[0])

    noted_before = noted()
    timing = {"retention_interval": 1.0, "sweep_interval": 1.0, "election": 3.0}
    env = {"RESULT_RETENTION_HOURS": str(HOURS)}
    replicas = start_generators(stack, 2, env, timing=timing, internet={})

    def stuck() -> UUID:
        session = uuid4()
        database.execute("insert into user_credits values (%s, 0, 1, 1)", [session])
        database.execute(
            "insert into generation_sessions (id, user_id, model_image_url, prompt_system, created_at)"
            " values (%s, %s, '', '', now() - interval '11 minutes')",
            [session, session],
        )
        database.execute("select app_recover_stuck_sessions()")
        return session

    failed_by_cron = [stuck()]
    wait_until(
        lambda: noted() - noted_before > old_ones // 8, timeout=120, what="some are deleted", every=0.5
    )
    sweeping = max(replicas, key=last_deletion)
    assert last_deletion(sweeping)
    sweeping.kill()
    failed_by_cron.append(stuck())
    wait_until(lambda: noted() - noted_before >= old_ones, timeout=420, what="all are deleted", every=1.0)
    failed_by_cron.append(stuck())

    left = names(stack)
    assert old & left == set()
    assert young <= left
    assert others <= left, "nothing else is gone"
    batches = [replica.events(event="pictures_deleted") for replica in replicas]
    assert all(batches), "the other replica went on"
    assert max(batch["pictures"] for done in batches for batch in done) <= 100
    links = database.execute(
        "select l.settled_at < now() - interval '6 hours' as old, s.generated_image_url, count(*)"
        " from made join generation_sessions s using (id) join generation_ledger l on l.session_id = s.id"
        " group by 1, 2 order by 1"
    ).fetchall()
    assert links == [(False, "https://x.example/signed", young_ones), (True, EXPIRED, old_ones)]
    assert {
        row["status"]
        for row in stack.app.rows(
            "select status from generation_sessions where id = any (%s)", failed_by_cron
        )
    } == {"failed"}
