"""`wearonctl`: the operator's command line. It parses and prints; the topics beside it do the work."""

from __future__ import annotations

import sys
from functools import partial
from typing import Final
from uuid import UUID

import click

from wearon_generator.operations import (
    costs,
    dead_letters,
    erasure,
    lanes,
    queues,
    retention,
    sessions,
    stuck,
    webhooks,
)
from wearon_generator.operations.desk import Desk, JsonGroup
from wearon_generator.operations.printing import fields, table

_POSITIVE: Final = click.IntRange(min=1, max=1_000_000)
"""Nothing is ever asked for so often, and the database takes no number above 2,147,483,647."""
_ROWS: Final = click.IntRange(min=1, max=1000)
"""PostgREST at Supabase answers no more rows at once and does not say that there are more."""
_HOURS: Final = click.IntRange(min=0, max=24 * 365)


@click.group(cls=JsonGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def main(context: click.Context, as_json: bool) -> None:
    """Look after the try-on queue and its sessions.

    Reads REDIS_URL, SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY and STORAGE_BUCKET from the environment or .env.
    """
    context.obj = Desk(as_json)


# ------------------------------------------------------------------ queues and workers


@main.command("status")
@click.pass_obj
def show_status(desk: Desk) -> None:
    """Queue depths, age of the oldest task, who lives, what the ledger counts."""
    desk.show(desk.run(queues.status), fields)


@main.command()
@click.option("--reason", default="by the operator", show_default=True, help="Shown by status.")
@click.pass_obj
def pause(desk: Desk, reason: str) -> None:
    """Start no more jobs from about 2 seconds on, until `resume`.

    Those in work finish; the others wait, also those that a generator has fetched already. A generator that
    has no jobs starts none either, but shows the pause in its readiness only after up to 30 seconds.
    """
    desk.show(desk.run(partial(queues.pause, reason=reason)), fields)


@main.command()
@click.pass_obj
def resume(desk: Desk) -> None:
    """Start jobs again."""
    desk.show(desk.run(queues.resume), fields)


@main.group()
def intake() -> None:
    """The consumers' intake, which too many invalid elements or dead letters stop."""


@intake.command("show")
@click.pass_obj
def show_intake(desk: Desk) -> None:
    """Whether the consumers take elements, and if not, why."""
    desk.show(desk.run(queues.intake), fields)


@intake.command("resume")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def resume_intake(desk: Desk, yes: bool) -> None:
    """Let the consumers take elements again; those that are still invalid become dead letters."""
    desk.confirm("Take elements from the producer's list again?", yes)
    desk.show(desk.run(queues.resume_intake), fields)


# ------------------------------------------------------------------ lanes


@main.group("lanes", invoke_without_command=True)
@click.option("--limit", default=20, show_default=True, type=_POSITIVE, help="The longest so many.")
@click.pass_context
def lane_group(context: click.Context, limit: int) -> None:
    """Stores and users whose tasks wait for their turn, the longest first."""
    if context.invoked_subcommand is not None:
        return
    desk: Desk = context.obj

    def lines(found: lanes.Lanes) -> list[str]:
        columns = ["lane", "waiting", "share", "in_work", "per_minute"]
        totals = {name: value for name, value in found.items() if name != "lanes"}
        return [*table(found["lanes"], columns, "no task waits in a lane"), "", *fields(totals)]

    desk.show(desk.run(partial(lanes.longest, limit=limit)), lines)


def _lane(_: click.Context, __: click.Parameter, value: str) -> str:
    kind, _separator, owner = value.partition(":")
    try:
        if kind not in ("store", "user"):
            raise ValueError(kind)
        return f"{kind}:{UUID(owner)}"
    except ValueError as error:
        raise click.BadParameter("must be store:<id> or user:<id>") from error


@lane_group.command("set")
@click.argument("lane", callback=_lane)
@click.option("--share", type=_POSITIVE, help="Turns for one of a user.")
@click.option("--in-work", type=_POSITIVE, help="Most jobs in work at once.")
@click.option("--per-minute", type=_POSITIVE, help="Most jobs started a minute.")
@click.pass_obj
def set_lane_rule(
    desk: Desk, /, lane: str, share: int | None, in_work: int | None, per_minute: int | None
) -> None:
    """Set what holds for one lane, store:<id> or user:<id>; without an option, forget it."""
    rule = lanes.rule(share=share, in_work=in_work, per_minute=per_minute)
    desk.show(desk.run(partial(lanes.set_rule, lane=lane, rule=rule)), fields)


@lane_group.command("rules")
@click.pass_obj
def list_lane_rules(desk: Desk) -> None:
    """What was set for single lanes."""

    def lines(found: lanes.Rules) -> list[str]:
        return table(found["rules"], ["lane", "share", "in_work", "per_minute"], "no lane has a rule")

    desk.show(desk.run(lanes.rules), lines)


@lane_group.command("drain")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drain_lanes(desk: Desk, yes: bool) -> None:
    """Hand all waiting tasks to Celery at once, before going back to a version without lanes."""
    desk.confirm("Hand all waiting tasks to Celery, where they take no more turns?", yes)
    desk.show(desk.run(lanes.drain), fields)


# ------------------------------------------------------------------ dead letters


@main.group()
def dead() -> None:
    """Dead letters: elements that were no valid task."""


@dead.command("list")
@click.option("--limit", default=50, show_default=True, type=_POSITIVE, help="The newest so many.")
@click.pass_obj
def list_letters(desk: Desk, limit: int) -> None:
    """The newest dead letters."""
    letters = desk.run(partial(dead_letters.newest, limit=limit))
    columns = ["id", "set_aside_at", "reason", "channel", "session_id", "detail"]
    desk.show(
        [letter.shown(raw=False) for letter in letters], lambda rows: table(rows, columns, "no dead letters")
    )


@dead.command("show")
@click.argument("letter_id")
@click.option("--raw", is_flag=True, help="The element itself too; it may hold signed links and a prompt.")
@click.pass_obj
def show_letter(desk: Desk, letter_id: str, raw: bool) -> None:
    """One dead letter."""
    letter = desk.run(partial(dead_letters.find, letter_id=letter_id))
    desk.show(letter.shown(raw=raw), fields)


@dead.command("requeue")
@click.argument("letter_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def requeue_letter(desk: Desk, letter_id: str, yes: bool) -> None:
    """Put a dead letter back on the producer's list; refused where its session is settled."""
    letter = desk.run(partial(dead_letters.find, letter_id=letter_id))
    desk.confirm(f"Put dead letter {letter.id} ({letter.letter.reason.value}) back on the queue?", yes)
    desk.show(desk.run(partial(dead_letters.requeue, letter=letter)), fields)


@dead.command("drop")
@click.argument("letter_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop_letter(desk: Desk, letter_id: str, yes: bool) -> None:
    """Delete a dead letter for good."""
    letter = desk.run(partial(dead_letters.find, letter_id=letter_id))
    desk.confirm(f"Delete dead letter {letter.id} ({letter.letter.reason.value}) for good?", yes)
    desk.show(desk.run(partial(dead_letters.drop, letter=letter)), fields)


# ------------------------------------------------------------------ sessions


@main.command("session")
@click.argument("session_id", type=click.UUID)
@click.pass_obj
def show_session(desk: Desk, session_id: UUID) -> None:
    """One session's whole story."""
    desk.show(desk.run(partial(sessions.story, session_id=session_id)), fields)


@main.command()
@click.option("--limit", default=50, show_default=True, type=_POSITIVE)
@click.pass_obj
def flagged(desk: Desk, limit: int) -> None:
    """Sessions a person should look at, and why."""
    columns = ["session_id", "channel", "reason", "outcome", "error_code", "settled_at"]
    rows = desk.run(partial(sessions.flagged, limit=limit))
    desk.show(rows, lambda found: table(found, columns, "no flagged sessions"))


@main.command("looked-at")
@click.argument("session_id", type=click.UUID)
@click.option("--note", required=True, help="What was done about it, for those who come after.")
@click.pass_obj
def looked_at(desk: Desk, session_id: UUID, note: str) -> None:
    """Take a session off the list of flagged ones."""
    desk.show(desk.run(partial(sessions.looked_at, session_id=session_id, note=note)), fields)


@main.command()
@click.argument("session_id", type=click.UUID)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def cancel(desk: Desk, session_id: UUID, yes: bool) -> None:
    """Fail a session and give its credit back; refused once the image provider was called for it."""
    desk.confirm(f"Cancel session {session_id}?", yes)
    desk.show(desk.run(partial(sessions.cancel, session_id=session_id)), fields)


@main.command()
@click.option("--yes", is_flag=True, help="Fail and refund them; without it they are only listed.")
@click.pass_obj
def reap(desk: Desk, yes: bool) -> None:
    """Up to 100 sessions that nothing will ever run: list them, or with --yes fail and refund them now.

    There may be more: ask again until there are none.
    """

    def lines(found: stuck.Stuck) -> list[str]:
        if not found["stuck"]:
            return ["no stuck sessions"]
        if found["reaped"]:
            return table(found["reaped"], ["channel", "session_id", "verdict"], "")
        return [*table(found["stuck"], ["channel", "session_id"], ""), "Add --yes to fail and refund them."]

    desk.show(desk.run(partial(stuck.reap, only_look=not yes)), lines)


@main.command("costs")
@click.option(
    "--days",
    default=30,
    show_default=True,
    type=_POSITIVE,
    help="How many days, today included; a day begins at 0:00 UTC.",
)
@click.pass_obj
def show_costs(desk: Desk, days: int) -> None:
    """What the image model's answers cost, by day, channel and model."""
    columns = ["day", "channel", "model", "answers", "input_tokens", "output_tokens", "cost_usd", "unpriced"]
    rows = desk.run(partial(costs.costs, days=days))
    desk.show(rows, lambda found: table(found, columns, "no answers in that time"))


# ------------------------------------------------------------------ webhooks


@main.group("webhooks")
def webhook_group() -> None:
    """Endpoints that are told how sessions begin and end."""


@webhook_group.command("add")
@click.argument("url")
@click.option("--store", "store_id", type=click.UUID, help="Of this store's sessions only.")
@click.pass_obj
def add_webhook(desk: Desk, url: str, store_id: UUID | None) -> None:
    """Tell an https:// address of all sessions or a store's; prints the secret that verifies what is sent."""
    desk.show(desk.run(partial(webhooks.add, url=url, store_id=store_id)), fields)


@webhook_group.command("list")
@click.pass_obj
def list_webhooks(desk: Desk) -> None:
    """All endpoints, and whether they are disabled or take nothing."""
    columns = ["id", "store_id", "url", "failing_since", "disabled_at", "disabled_reason"]
    desk.show(desk.run(webhooks.endpoints), lambda found: table(found, columns, "no webhook endpoints"))


@webhook_group.command("test")
@click.argument("endpoint_id", type=click.UUID)
@click.pass_obj
def test_webhook(desk: Desk, endpoint_id: UUID) -> None:
    """Send an endpoint a signed webhook.test now, disabled or not, and show what it answers.

    Ends with exit code 1 if the endpoint does not take it.
    """
    tried = desk.run(partial(webhooks.test, endpoint_id=endpoint_id))
    desk.show(tried, fields)
    if not tried["delivered"]:
        sys.exit(1)


@webhook_group.command("rotate")
@click.argument("endpoint_id", type=click.UUID)
@click.option(
    "--hours", default=24, show_default=True, type=_HOURS, help="For so long the old one signs too."
)
@click.pass_obj
def rotate_webhook(desk: Desk, endpoint_id: UUID, hours: int) -> None:
    """Give an endpoint a new secret, which is printed; for a while the old one signs as well.

    If one before still signs, it goes on and the newer one ends.
    """
    desk.show(desk.run(partial(webhooks.rotate, endpoint_id=endpoint_id, hours=hours)), fields)


@webhook_group.command("disable")
@click.argument("endpoint_id", type=click.UUID)
@click.pass_obj
def disable_webhook(desk: Desk, endpoint_id: UUID) -> None:
    """Tell an endpoint nothing any more; what waits for it is kept for a week."""
    desk.show(desk.run(partial(webhooks.disable, endpoint_id=endpoint_id)), fields)


@webhook_group.command("enable")
@click.argument("endpoint_id", type=click.UUID)
@click.pass_obj
def enable_webhook(desk: Desk, endpoint_id: UUID) -> None:
    """Tell an endpoint of sessions again, and send what waits for it."""
    desk.show(desk.run(partial(webhooks.enable, endpoint_id=endpoint_id)), fields)


@webhook_group.command("deliveries")
@click.option("--endpoint", "endpoint_id", type=click.UUID, help="To this endpoint only.")
@click.option("--session", "session_id", type=click.UUID, help="Of this session only.")
@click.option("--limit", default=50, show_default=True, type=_ROWS, help="The newest so many.")
@click.pass_obj
def list_deliveries(desk: Desk, endpoint_id: UUID | None, session_id: UUID | None, limit: int) -> None:
    """Events of the last week: what was delivered, what waits for its next try, what was given up."""
    columns = ["id", "type", "session_id", "attempts", "delivered_at", "due_at", "given_up_at", "last_error"]
    work = partial(webhooks.deliveries, endpoint_id=endpoint_id, session_id=session_id, limit=limit)
    desk.show(desk.run(work), lambda found: table(found, columns, "no events"))


@webhook_group.command("resend")
@click.argument("delivery_id", type=click.UUID, required=False)
@click.option("--endpoint", "endpoint_id", type=click.UUID, help="All that were given up of this endpoint.")
@click.pass_obj
def resend_webhook(desk: Desk, delivery_id: UUID | None, endpoint_id: UUID | None) -> None:
    """Send an event again, delivered or not, with a new link; it keeps its webhook-id."""
    if (delivery_id is None) == (endpoint_id is None):
        raise click.UsageError("give either the id of a delivery or --endpoint")
    desk.show(desk.run(partial(webhooks.resend, delivery_id=delivery_id, endpoint_id=endpoint_id)), fields)


# ------------------------------------------------------------------ pictures' age


@main.command("retention")
@click.option("--limit", default=20, show_default=True, type=_POSITIVE, help="So many of the next ones.")
@click.option("--leftovers", is_flag=True, help="Look through Storage for results without a session instead.")
@click.pass_obj
def show_retention(desk: Desk, limit: int, leftovers: bool) -> None:
    """What the retention settings let go now, what is gone, what is left over; deletes nothing."""
    if leftovers:
        desk.show(desk.run(retention.leftovers), fields)
    else:
        desk.show(desk.run(partial(retention.show, limit=limit)), fields)


# ------------------------------------------------------------------ erasing


@main.command()
@click.option("--session", "session_id", type=click.UUID, help="One session.")
@click.option("--user", "user_id", type=click.UUID, help="All b2c sessions of a user.")
@click.option("--yes", is_flag=True, help="Delete; without it, what would be deleted is only listed.")
@click.pass_obj
def erase(desk: Desk, session_id: UUID | None, user_id: UUID | None, yes: bool) -> None:
    """Delete a session's or a user's pictures, and the links to them."""
    match session_id, user_id:
        case UUID() as one, None:
            work = partial(erasure.erase_session, session_id=one, only_look=not yes)
        case None, UUID() as one:
            work = partial(erasure.erase_user, user_id=one, only_look=not yes)
        case _:
            raise click.UsageError("give either --session or --user")

    def lines(found: erasure.Erasure) -> list[str]:
        shown = fields(found)
        if not found["erased"]:
            shown.append("Add --yes to delete them.")
        if found["needed_by_unsettled_and_kept"]:
            shown.append("Erase again once the try-ons that need what is kept have ended.")
        return shown

    desk.show(desk.run(work), lines)


if __name__ == "__main__":
    main(prog_name="wearonctl")
