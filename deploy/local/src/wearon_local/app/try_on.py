"""One try-on, from sample pictures to the finished one, in the stack of docker-compose.yml.

docker compose run --rm try-on
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from typing import Final, TextIO

from wearon_contracts.sessions import SETTLED
from wearon_local.app.next_app import NextApp

_PATIENCE: Final = 120.0  # seconds; the stand-in of OpenAI takes 5 of them, a real one up to a minute
_EVERY: Final = 0.1  # seconds between two looks at the session


def show(app: NextApp, out: TextIO, *, patience: float = _PATIENCE) -> int:
    """Order one, print each change of its session and where the picture is; 0 if it completed.

    `patience`: seconds after which nothing more is expected.
    """
    user = app.create_user(credits=10)
    job = app.b2c_job(user)
    started = time.monotonic()
    app.push(job)
    print(f"session {job.session_id}, request {job.request_id}", file=out)
    status = ""
    while status not in SETTLED:
        seconds = time.monotonic() - started
        row = app.session(job)
        if row["status"] != status:
            status = row["status"]
            print(f"{seconds:5.1f} s  {status}", file=out, flush=True)
        elif seconds > patience:
            print(f"still {status}: docker compose ps, docker compose logs consumer generator", file=out)
            return 1
        else:
            time.sleep(_EVERY)
    print(f"credits  10 -> {app.balance(user)}", file=out)
    print(row["generated_image_url"] or row["error_message"], file=out, flush=True)
    return 0 if status == "completed" else 1


if __name__ == "__main__":
    with closing(NextApp.from_environment(os.environ)) as application:
        sys.exit(show(application, sys.stdout))
