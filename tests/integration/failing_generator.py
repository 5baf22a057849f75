"""`python -m wearon_generator` whose worker fails, as over a defect of Celery, when it gets SIGUSR1."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from celery import signals

from wearon_generator.__main__ import main


def fail() -> None:
    """What the worker's loop calls."""
    raise RuntimeError("the worker fails")


def wait_for_signal(sender: Any, **_: Any) -> None:
    """Let the loop of the worker's consumer `sender` fail at the signal."""
    readable, writable = os.pipe()
    sender.hub.add_reader(readable, fail)
    signal.signal(signal.SIGUSR1, lambda *_: os.write(writable, b"x"))


if __name__ == "__main__":
    signals.worker_ready.connect(wait_for_signal, weak=False)
    sys.exit(main())
