"""Takes out one safeguard at a time, on a copy of the repository, and shows that the short form notices.

`python -m tests.chaos.mutations [NAME …]`: a table of what was taken out and which test failed; exit 1 if one
went unnoticed, or if the copy fails with nothing taken out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wearon_local.paths import LOCAL_DIR, ROOT
from wearon_local.stack import end_on_sigterm

_COPIED: Final = ("packages", "services", "deploy", "tests", "pyproject.toml")
_SOURCES: Final = ("packages/*/src", "services/*/src", "deploy/local/src")
_ATTEMPT: Final = "services/generator/src/wearon_generator/attempt.py"
_LEDGER: Final = "services/generator/src/wearon_generator/ledger.py"
_LEASES: Final = "services/generator/src/wearon_generator/leases.py"
_QUARANTINE: Final = "services/generator/src/wearon_generator/quarantine.py"
_PLACES: Final = "packages/service-kit/src/wearon_service_kit/images/places.py"
_STORAGE: Final = "services/generator/src/wearon_generator/storage.py"
_RECOVERY: Final = "services/generator/src/wearon_generator/recovery.py"
_INFLIGHT: Final = "services/consumer/src/wearon_consumer/inflight.py"
_SQL: Final = "deploy/supabase/migrations"
_SAFEGUARDS: Final = "tests/chaos/test_safeguards.py"
_CANCELLING: Final = "tests/chaos/test_cancelling.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`changes`: by file, what is replaced by what; `added`: whole files; `tests`: which must notice."""

    name: str
    changes: Mapping[str, Mapping[str, str]]
    added: Mapping[str, str] | None = None
    tests: str = "tests/chaos"


_TWO_STATEMENTS: Final = """
create or replace function public.generation_refund(p_channel text, p_session_id uuid) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_session record;
  v_refund record;
begin
  select * into v_session from generation_private.read_session(p_channel, p_session_id, 'none');
  select * into v_refund from generation_private.give_back(
    p_channel, p_session_id, v_session.owner_id, v_session.request_id, v_session.shopper_email
  );
  update public.generation_ledger
     set refund_state = v_refund.state, refund_amount = v_refund.amount,
         refund_payer = v_refund.payer, refund_error = v_refund.error
   where channel = p_channel and session_id = p_session_id;
  return '{"verdict": "refunded"}';
end
$$;
grant execute on function public.generation_refund(text, uuid) to service_role;
notify pgrst, 'reload schema';
"""

_GIVING_BACK: Final = """  select * into v_refund from generation_private.give_back(
    p_row.channel, p_row.session_id, v_session.owner_id, v_session.request_id, v_session.shopper_email
  );
"""
_GIVEN_BACK: Final = """select p_row.refund_state as state, p_row.refund_amount as amount,
    p_row.refund_payer as payer, p_row.refund_error as error into v_refund;
"""

MUTATIONS: Final = (
    Mutation("nothing", {}),
    Mutation(
        "the fencing check before an upload",
        {_ATTEMPT: {'if decision.verdict != "current":': "if False:"}},
    ),
    Mutation(
        "the fencing token of complete, fail and requeue",
        {
            f"{_SQL}/020_sessions_and_payers.sql": {
                "when p_row.state = 'working' and p_row.holder = p_holder"
                " and p_row.attempt = p_attempt then null": "when p_row.state = 'working' then null",
            }
        },
    ),
    Mutation(
        "the lease in claim",
        {
            f"{_SQL}/040_hold_and_claim.sql": {
                "when v_row.holder <> p_holder and not v_row.recovering"
                " and v_row.lease_expires_at > v_now then": "when false then"
            }
        },
    ),
    Mutation(
        "the transaction around fail",
        {
            _LEDGER: {
                'return await self._decide("fail", params, _FAIL)': (
                    'await self._call("refund", claim.held.session.params(), dict)\n'
                    '        return await self._decide("fail", params, _FAIL)'
                )
            },
            f"{_SQL}/030_settling.sql": {
                _GIVING_BACK: f"if p_settled_by = 'worker' then {_GIVEN_BACK} else {_GIVING_BACK} end if;"
            },
        },
        {f"{_SQL}/089_two_statements.sql": _TWO_STATEMENTS},
    ),
    Mutation(
        "the in-flight recovery",
        {_INFLIGHT: {"self._client.eval(_RECOVER, 3, TASK_LIST, name, heartbeat, str(grace))": "0"}},
    ),
    Mutation("upsert", {_STORAGE: {'"upsert": "true"': '"upsert": "false"'}}),
    Mutation(
        "the look for a stored picture",
        {_ATTEMPT: {"if self._claim.attempt > 1 and await self._store.exists(self._path):": "if False:"}},
    ),
    Mutation(
        "the second delivery of what a dead worker took",
        {_RECOVERY: {"    for tag, session_id in unheld.items():": "    for tag, session_id in ():"}},
    ),
    Mutation(
        "the quarantine after a death",
        {
            _QUARANTINE: {
                "self.is_suspect = crashes > 0 or decision.holders_lost > 0": "self.is_suspect = False"
            }
        },
        tests=f"{_SAFEGUARDS}::test_task_that_kills_its_process_is_given_up_and_no_other",
    ),
    Mutation(
        "the time limit of a renewal",
        {
            _LEASES: {"async with asyncio.timeout(self._timing.renewal_timeout):": "if True:"},
            "tests/chaos/generator_process.py": {"(settings, timeout=timing.renewal_timeout)": "(settings)"},
        },
        tests=f"{_SAFEGUARDS}::test_renewal_that_hangs_costs_no_second_call",
    ),
    Mutation(
        "each host's own places for downloads",
        {_PLACES: {'(target.trusted, target.host_header.decode("ascii"))': '(target.trusted, "")'}},
        tests=f"{_SAFEGUARDS}::test_pictures_of_a_silent_host_hold_up_no_others",
    ),
    Mutation(
        "the look for a copy that waits already",
        {_RECOVERY: {'if row["session_id"] in waiting:': "if False:"}},
        tests=f"{_SAFEGUARDS}::test_jobs_that_nobody_has_room_for_wait_as_one_copy_each",
    ),
    Mutation(
        "the look for the session's row before an upload",
        {
            f"{_SQL}/040_hold_and_claim.sql": {
                "    v_row := generation_private.settle_if_overtaken(v_row);\n"
                "    v_answer := generation_private.answer(case v_row.state": (
                    "    v_answer := generation_private.answer(case v_row.state"
                )
            }
        },
        tests=f"{_SAFEGUARDS}::test_user_deleted_during_the_call_gets_no_picture",
    ),
    Mutation(
        "the deletion of pictures that nobody may see",
        {_RECOVERY: {"objects = await ledger.unwanted_objects(BATCH)": "objects = []"}},
        tests=f"{_SAFEGUARDS}::test_picture_of_a_user_deleted_during_the_upload_does_not_stay",
    ),
    Mutation(
        "the search for messages that were popped and not noted down",
        {_RECOVERY: {"    for session_id in lost:": "    for session_id in set():"}},
        tests=f"{_SAFEGUARDS}::test_killed_between_taking_a_message_and_noting_it_down",
    ),
    Mutation(
        "the look whether a call has begun, when a session is cancelled",
        {f"{_SQL}/100_cancel.sql": {"when v_row.call_begun_at is not null then": "when false then"}},
        tests=_CANCELLING,
    ),
    Mutation(
        "the note that a call begins, when a session is claimed",
        {
            f"{_SQL}/040_hold_and_claim.sql": {
                "coalesce(call_begun_at, case when p_call_begins then v_now end)": "call_begun_at"
            }
        },
        tests=_CANCELLING,
    ),
    Mutation(
        "the search for the cron's refund",
        {
            f"{_SQL}/030_settling.sql": {
                "   where t.user_id = p_user_id\n     and t.type = 'refund'": (
                    "   where t.user_id = p_user_id\n     and false and t.type = 'refund'"
                )
            }
        },
    ),
)


def main() -> int:
    names = [mutation.name for mutation in MUTATIONS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default all")
    wanted = parser.parse_args().names or names
    width = max(map(len, names))
    print(f"{'taken out':{width}}  noticed by")
    noticed = []
    for mutation in MUTATIONS:
        if mutation.name not in wanted:
            continue
        began = time.monotonic()
        with end_on_sigterm():
            failure = _first_failure(mutation)
        noticed.append((failure is not None) == (mutation.name != "nothing"))
        seconds = f"({time.monotonic() - began:.0f} s)"
        print(f"{mutation.name:{width}}  {failure or 'nothing: all tests pass'}  {seconds}", flush=True)
    return 0 if all(noticed) else 1


def _first_failure(mutation: Mutation) -> str | None:
    """The test that fails first and why, None if all pass."""
    with tempfile.TemporaryDirectory(prefix="wearon-mutation-") as directory:
        copy = Path(directory)
        copy.chmod(0o755)
        _copy_repository(copy)
        _mutate(copy, mutation)
        sources = [str(path) for pattern in _SOURCES for path in sorted(copy.glob(pattern))]
        options = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, mutation.tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sources, str(copy)])},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return None
    if done.returncode != 1:
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout}{done.stderr}")
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    why = re.search(r"^\S+:\d+: (.*)$", done.stdout, re.MULTILINE)
    return f"{failed[1] if failed else 'the tests cannot run'}: {why[1][:200] if why else ''}"


def _copy_repository(copy: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", ".pytest_cache", ".mypy_cache")
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy2(source, copy / name)
    (copy / ".local").mkdir()
    (copy / ".local" / "downloads").symlink_to(LOCAL_DIR / "downloads")


def _mutate(copy: Path, mutation: Mutation) -> None:
    for name, replacements in mutation.changes.items():
        file = copy / name
        text = file.read_text()
        for old, new in replacements.items():
            if old not in text:
                raise LookupError(f"{mutation.name}: {name} has no {old!r} any more")
            text = text.replace(old, new)
        file.write_text(text)
    for name, text in (mutation.added or {}).items():
        (copy / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
