"""Where commands find their connections, show what came of them, and end with a sentence if nothing did."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar

import click
import httpx
from postgrest.exceptions import APIError
from redis.exceptions import RedisError, ResponseError
from storage3.exceptions import StorageApiError

from wearon_generator.operations.connections import Connections, Refused
from wearon_generator.operations.printing import printable
from wearon_generator.retention import Limits
from wearon_generator.settings import OperatorSettings
from wearon_generator.supabase_client import SupabaseUnavailable, connect_supabase
from wearon_service_kit.redis_clients import connect_async
from wearon_service_kit.settings import load_settings

T = TypeVar("T")
_NO_PRIVILEGE: Final = "42501"  # PostgreSQL's insufficient_privilege


class Desk:
    """What a command is handed; `as_json` says how it shows what it was answered."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def run(self, work: Callable[[Connections], Awaitable[T]]) -> T:
        """Do `work` with connections of its own; ends the program with a sentence if it cannot be done."""
        settings = load_settings(OperatorSettings)

        async def connected() -> T:
            redis = connect_async(settings.redis_url, name="wearonctl")
            key = settings.supabase_service_role_key.get_secret_value()
            supabase = connect_supabase(settings.supabase_url, key, connections=4, proxies=settings.proxies)
            try:
                return await work(
                    Connections(
                        redis,
                        supabase,
                        settings.storage_bucket,
                        settings.stuck_after_seconds,
                        settings.webhook_trusted_origins,
                        Limits(settings.result_retention_hours, settings.input_retention_hours),
                    )
                )
            finally:
                await redis.aclose()

        try:
            return asyncio.run(connected())
        except Exception as error:  # whatever it is, an operator at night reads a sentence
            self.stop(*_sentence(error))

    def stop(self, why: str, code: int) -> NoReturn:
        """End with `why` on standard error."""
        click.echo(json.dumps({"error": why}) if self.as_json else printable(f"wearonctl: {why}"), err=True)
        sys.exit(code)

    def show(self, data: T, lines: Callable[[T], list[str]]) -> None:
        """Print `data` as JSON, or as the lines a person reads."""
        click.echo(json.dumps(data, default=str) if self.as_json else printable("\n".join(lines(data))))

    def confirm(self, question: str, yes: bool) -> None:
        """Go on only if the operator agrees; without a terminal, `--yes` has to say so."""
        if yes:
            return
        if self.as_json or not sys.stdin.isatty():
            self.stop(f"{question} Add --yes to do it.", 1)
        click.confirm(question, abort=True, err=True)


def _sentence(error: BaseException) -> tuple[str, int]:
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
        case APIError() if error.code == _NO_PRIVILEGE:
            why = "the database does not allow this key that: check SUPABASE_SERVICE_ROLE_KEY"
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


def _print_json(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.obj.as_json = True


def _json_option() -> click.Option:
    return click.Option(
        ["--json", "as_json"],
        is_flag=True,
        expose_value=False,
        callback=_print_json,
        help="Print JSON, for programs.",
    )


class JsonCommand(click.Command):
    """A command that takes `--json` as well, so that it may stand behind it too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(_json_option())


class JsonGroup(click.Group):
    """A group of such commands; one that does something by itself takes `--json` too."""

    command_class = JsonCommand
    group_class = type

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.invoke_without_command:
            self.params.append(_json_option())
