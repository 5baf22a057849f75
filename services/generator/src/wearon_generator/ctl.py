"""`wearonctl`: the operator's command line."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final
from uuid import UUID

import click
import httpx
from postgrest.exceptions import APIError
from pydantic import Field, SecretStr
from redis.exceptions import RedisError, ResponseError
from storage3.exceptions import StorageApiError

from wearon_generator.operations import Letter, Operations, Refused
from wearon_generator.settings import ProxySettings
from wearon_generator.supabase_client import SupabaseUnavailable, connect_supabase
from wearon_service_kit.redis_clients import connect_async
from wearon_service_kit.settings import HttpOrigin, RedisUrl, load_settings


class OperatorSettings(ProxySettings):
    """The part of the generator's environment that an operator needs."""

    redis_url: Annotated[RedisUrl, Field(description="Redis of the services.")]
    supabase_url: Annotated[HttpOrigin, Field(description="Supabase project.")]
    supabase_service_role_key: Annotated[SecretStr, Field(min_length=1, description="Service-role key.")]
    storage_bucket: Annotated[str, Field(min_length=1, description="Bucket for results.")] = "images"
    stuck_after_seconds: Annotated[int, Field(ge=1, description="As the generators have it.")] = 300


class Desk:
    """Where commands find their way to the operations and show what came of them."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def run(self, work: Callable[[Operations], Awaitable[Any]]) -> Any:
        """Do `work` with connections of its own; ends the program with a sentence if it cannot be done."""
        settings = load_settings(OperatorSettings)

        async def connected() -> Any:
            redis = connect_async(settings.redis_url, name="wearonctl")
            key = settings.supabase_service_role_key.get_secret_value()
            supabase = connect_supabase(settings.supabase_url, key, connections=4, proxies=settings.proxies)
            try:
                return await work(
                    Operations(redis, supabase, settings.storage_bucket, settings.stuck_after_seconds)
                )
            finally:
                await redis.aclose()

        try:
            return asyncio.run(connected())
        except Exception as error:  # whatever it is, an operator at night reads a sentence
            self.stop(*_told_of(error))

    def stop(self, why: str, code: int) -> None:
        """End with `why` on standard error."""
        click.echo(json.dumps({"error": why}) if self.as_json else _printable(f"wearonctl: {why}"), err=True)
        sys.exit(code)

    def show(self, data: Any, lines: Callable[[Any], list[str]]) -> None:
        """Print `data` as JSON, or as the lines a person reads."""
        click.echo(json.dumps(data, default=str) if self.as_json else _printable("\n".join(lines(data))))

    def confirm(self, question: str, yes: bool) -> None:
        """Go on only if the operator agrees; without a terminal, `--yes` has to say so."""
        if yes:
            return
        if self.as_json or not sys.stdin.isatty():
            self.stop(f"{question} Add --yes to do it.", 1)
        click.confirm(question, abort=True, err=True)


def _told_of(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code: 3 where something does not answer or refuses, else 1."""
    if isinstance(error, SupabaseUnavailable) and error.__cause__ is not None:
        error = error.__cause__
    code = 3
    match error:
        case Refused():
            why, code = str(error), 1
        case ResponseError():
            why = f"Redis refused a command ({error}): check REDIS_URL, and what was set there by hand"
        case RedisError():
            why = f"Redis does not answer ({type(error).__name__}): check REDIS_URL"
        case httpx.HTTPError() | StorageApiError():
            why = f"Supabase does not answer ({type(error).__name__}): check SUPABASE_URL"
        # An answer without a code of PostgreSQL or PostgREST comes from a gateway before them: HTTP status.
        case APIError() if len(str(error.code)) == 3 and str(error.code).startswith("5"):
            why = f"Supabase does not answer (status {error.code}): check SUPABASE_URL"
        case APIError() if not error.code or str(error.code).startswith("PGRST3"):
            why = "Supabase refused the request: check SUPABASE_SERVICE_ROLE_KEY and SUPABASE_URL"
        case APIError():
            why = f"the database refused ({error.code}): are the migrations applied?"
        case UnicodeError():
            why, code = f"no valid text ({error}): check the arguments and the names of Redis's keys", 1
        # A proxy's page with status 200, an answer that was cut off, or one of another shape.
        case ValueError() | SupabaseUnavailable():
            why, code = "what answered is not Supabase: check SUPABASE_URL and what stands before it", 1
        case _:
            why, code = f"a bug in wearonctl ({type(error).__name__}: {error}): please report it", 1
    return " ".join(why.split()), code


def _printable(text: str) -> str:
    """`text` without what could steer a terminal or not be written to it; much of it comes from strangers."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)


def _fields(data: Any, indent: str = "") -> list[str]:
    """Nested data as indented `name: value` lines."""
    lines = []
    for name, value in data.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_fields(value, indent + "  ")]
        elif isinstance(value, list) and value:
            lines.append(f"{indent}{name}:")
            for item in value:
                inner = _fields(item, indent + "    ") if isinstance(item, dict) else [str(item)]
                lines += [f"{indent}  - {inner[0].strip()}", *inner[1:]]
        else:
            lines.append(f"{indent}{name}: {'none' if value in (None, [], {}) else value}")
    return lines


def _table(rows: list[dict[str, Any]], columns: list[str], empty: str) -> list[str]:
    if not rows:
        return [empty]
    cells = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _print_json(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.obj.as_json = True


class JsonCommand(click.Command):
    """A command that takes `--json` as well, so that it may stand behind it too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                expose_value=False,
                callback=_print_json,
                help="Print JSON, for programs.",
            )
        )


class JsonGroup(click.Group):
    """A group of such commands."""

    command_class = JsonCommand
    group_class = type


_POSITIVE: Final = click.IntRange(min=1)


@click.group(cls=JsonGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def main(context: click.Context, as_json: bool) -> None:
    """Look after the try-on queue and its sessions.

    Reads REDIS_URL, SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY and STORAGE_BUCKET from the environment or .env.
    """
    context.obj = Desk(as_json)


@main.command()
@click.pass_obj
def status(desk: Desk) -> None:
    """Queue depths, age of the oldest task, who lives, what the ledger counts."""
    desk.show(desk.run(lambda operations: operations.status()), _fields)


@main.command()
@click.option("--reason", default="by the operator", show_default=True, help="Shown by status.")
@click.pass_obj
def pause(desk: Desk, reason: str) -> None:
    """Start no more jobs; those in work finish, the others wait in their queues."""
    desk.show(desk.run(lambda operations: operations.pause(reason)), _fields)


@main.command()
@click.pass_obj
def resume(desk: Desk) -> None:
    """Start jobs again."""
    desk.show(desk.run(lambda operations: operations.resume()), _fields)


@main.group()
def intake() -> None:
    """The consumers' intake, which too many invalid elements or dead letters stop."""


@intake.command("show")
@click.pass_obj
def intake_show(desk: Desk) -> None:
    """Whether the consumers take elements, and if not, why."""
    desk.show(desk.run(lambda operations: operations.intake()), _fields)


@intake.command("resume")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def intake_resume(desk: Desk, yes: bool) -> None:
    """Let the consumers take elements again; those that are still invalid become dead letters."""
    desk.confirm("Take elements from the producer's list again?", yes)
    desk.show(desk.run(lambda operations: operations.resume_intake()), _fields)


@main.group(invoke_without_command=True)
@click.option("--limit", default=20, show_default=True, type=_POSITIVE, help="The longest so many.")
@click.option(
    "--json", is_flag=True, expose_value=False, callback=_print_json, help="Print JSON, for programs."
)
@click.pass_context
def lanes(context: click.Context, limit: int) -> None:
    """Stores and users whose tasks wait for their turn, the longest first."""
    if context.invoked_subcommand is not None:
        return
    desk: Desk = context.obj

    def lines(found: dict[str, Any]) -> list[str]:
        columns = ["lane", "waiting", "share", "in_work", "per_minute"]
        totals = {name: value for name, value in found.items() if name != "lanes"}
        return [*_table(found["lanes"], columns, "no task waits in a lane"), "", *_fields(totals)]

    desk.show(desk.run(lambda operations: operations.lanes.longest(limit)), lines)


def _lane(_: click.Context, __: click.Parameter, value: str) -> str:
    kind, _separator, owner = value.partition(":")
    try:
        if kind not in ("store", "user"):
            raise ValueError(kind)
        return f"{kind}:{UUID(owner)}"
    except ValueError as error:
        raise click.BadParameter("must be store:<id> or user:<id>") from error


@lanes.command("set")
@click.argument("lane", callback=_lane)
@click.option("--share", type=_POSITIVE, help="Turns for one of a user.")
@click.option("--in-work", type=_POSITIVE, help="Most jobs in work at once.")
@click.option("--per-minute", type=_POSITIVE, help="Most jobs started a minute.")
@click.pass_obj
def lanes_set(desk: Desk, /, lane: str, **limits: int | None) -> None:
    """Set what holds for one lane, store:<id> or user:<id>; without an option, forget it."""
    rule = {name: limit for name, limit in limits.items() if limit is not None}
    desk.show(desk.run(lambda operations: operations.lanes.set_rule(lane, rule)), _fields)


@lanes.command("drain")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def lanes_drain(desk: Desk, yes: bool) -> None:
    """Hand all waiting tasks to Celery at once, before going back to a version without lanes."""
    desk.confirm("Hand all waiting tasks to Celery, where they take no more turns?", yes)
    desk.show(desk.run(lambda operations: operations.lanes.drain()), _fields)


@main.group()
def dead() -> None:
    """Dead letters: elements that were no valid task."""


@dead.command("list")
@click.option("--limit", default=50, show_default=True, type=_POSITIVE, help="The newest so many.")
@click.pass_obj
def dead_list(desk: Desk, limit: int) -> None:
    """The newest dead letters."""

    async def summaries(operations: Operations) -> list[dict[str, Any]]:
        return [letter.summary() for letter in await operations.dead_letters(limit)]

    columns = ["id", "set_aside_at", "reason", "channel", "session_id", "detail"]
    desk.show(desk.run(summaries), lambda rows: _table(rows, columns, "no dead letters"))


@dead.command("show")
@click.argument("letter_id")
@click.option("--raw", is_flag=True, help="The element itself too; it may hold signed links and a prompt.")
@click.pass_obj
def dead_show(desk: Desk, letter_id: str, raw: bool) -> None:
    """One dead letter."""
    letter: Letter = desk.run(lambda operations: operations.dead_letter(letter_id))
    data = letter.summary() | ({"raw": letter.letter.raw} if raw else {})
    desk.show(data, _fields)


@dead.command("requeue")
@click.argument("letter_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def dead_requeue(desk: Desk, letter_id: str, yes: bool) -> None:
    """Put a dead letter back on the producer's list; refused where its session is settled."""
    letter: Letter = desk.run(lambda operations: operations.dead_letter(letter_id))
    desk.confirm(f"Put dead letter {letter.id} ({letter.letter.reason.value}) back on the queue?", yes)
    desk.show(desk.run(lambda operations: operations.requeue_dead_letter(letter)), _fields)


@dead.command("drop")
@click.argument("letter_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def dead_drop(desk: Desk, letter_id: str, yes: bool) -> None:
    """Delete a dead letter for good."""
    letter: Letter = desk.run(lambda operations: operations.dead_letter(letter_id))
    desk.confirm(f"Delete dead letter {letter.id} ({letter.letter.reason.value}) for good?", yes)
    desk.show(desk.run(lambda operations: operations.drop_dead_letter(letter)), _fields)


@main.command()
@click.argument("session_id", type=click.UUID)
@click.pass_obj
def session(desk: Desk, session_id: UUID) -> None:
    """One session's whole story."""
    desk.show(desk.run(lambda operations: operations.story(session_id)), _fields)


@main.command()
@click.option("--limit", default=50, show_default=True, type=_POSITIVE)
@click.pass_obj
def flagged(desk: Desk, limit: int) -> None:
    """Sessions a person should look at, and why."""
    columns = ["session_id", "channel", "reason", "outcome", "error_code", "settled_at"]
    rows = desk.run(lambda operations: operations.flagged(limit))
    desk.show(rows, lambda found: _table(found, columns, "no flagged sessions"))


@main.command("looked-at")
@click.argument("session_id", type=click.UUID)
@click.option("--note", required=True, help="What was done about it, for those who come after.")
@click.pass_obj
def looked_at(desk: Desk, session_id: UUID, note: str) -> None:
    """Take a session off the list of flagged ones."""
    desk.show(desk.run(lambda operations: operations.looked_at(session_id, note)), _fields)


@main.command()
@click.option("--yes", is_flag=True, help="Fail and refund them; without it they are only listed.")
@click.pass_obj
def reap(desk: Desk, yes: bool) -> None:
    """Sessions that nothing will ever run: list them, or with --yes fail and refund them now."""

    async def look_or_reap(operations: Operations) -> dict[str, Any]:
        stuck = await operations.stuck()
        listed = [{"channel": one.channel.value, "session_id": str(one.session_id)} for one in stuck]
        return {"stuck": listed, "reaped": await operations.reap(stuck) if yes and stuck else []}

    def lines(data: dict[str, Any]) -> list[str]:
        if not data["stuck"]:
            return ["no stuck sessions"]
        if data["reaped"]:
            return _table(data["reaped"], ["channel", "session_id", "verdict"], "")
        return [*_table(data["stuck"], ["channel", "session_id"], ""), "Add --yes to fail and refund them."]

    desk.show(desk.run(look_or_reap), lines)


@main.command()
@click.option(
    "--days", default=30, show_default=True, type=_POSITIVE, help="Today and so many days before, less one."
)
@click.pass_obj
def costs(desk: Desk, days: int) -> None:
    """What the image model's answers cost, by day, channel and model."""
    columns = ["day", "channel", "model", "answers", "input_tokens", "output_tokens", "cost_usd", "unpriced"]
    rows = desk.run(lambda operations: operations.costs(days))
    desk.show(rows, lambda found: _table(found, columns, "no answers in that time"))


@main.command()
@click.option("--session", "session_id", type=click.UUID, help="One session.")
@click.option("--user", "user_id", type=click.UUID, help="All b2c sessions of a user.")
@click.option("--yes", is_flag=True, help="Delete; without it, what would be deleted is only listed.")
@click.pass_obj
def erase(desk: Desk, session_id: UUID | None, user_id: UUID | None, yes: bool) -> None:
    """Delete a session's or a user's pictures, and the links to them."""
    if (session_id is None) == (user_id is None):
        raise click.UsageError("give either --session or --user")

    async def look_or_erase(operations: Operations) -> dict[str, Any]:
        found = await operations.erasable(session_id=session_id, user_id=user_id)
        return {**found, "erased": await operations.erase(found) if yes else None}

    def lines(data: dict[str, Any]) -> list[str]:
        return _fields(data) if data["erased"] else [*_fields(data), "Add --yes to delete them."]

    desk.show(desk.run(look_or_erase), lines)


if __name__ == "__main__":
    main(prog_name="wearonctl")
