"""Named steps of a service process, at which it can be told to die or to stop.

Used only by `generator_process` and `consumer_process`, which wrap a service from outside; the services know
nothing of it. Whoever runs the process (see `world.World`) talks with it through files:

    <directory>/orders/<who> <step>   "kill" or "stop"; <who> is a process, any of a kind, or a session.
                                      Obeyed once, by the first that comes to the step; "kill all" by each
    <directory>/traces/<process>      one JSON line per step, the time always the machine's
    <directory>/clocks/<process>      seconds by which the process's clock is off
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = "CHAOS_DIRECTORY"
NAME: Final = "CHAOS_NAME"
PACE: Final = "CHAOS_PACE"
"""Environment variables; the pace divides the periods named in the two process modules."""

_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "kill all": signal.SIGKILL}


class Steps:
    """The steps of this process."""

    def __init__(self) -> None:
        # What a process that does not end is doing goes into its log.
        faulthandler.register(signal.SIGUSR1)
        self.name: Final = os.environ[NAME]
        self.pace: Final = float(os.environ.get(PACE, "1"))
        self._directory: Final = Path(os.environ[DIRECTORY])
        trace = self._directory / "traces" / self.name
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def at(self, step: str, session: str | None = None, **more: Any) -> None:
        """Take note of the step, then die or stop here if that was ordered."""
        line = {"at": time.time(), "step": step, "session": session, **more}
        os.write(self._trace, json.dumps({k: v for k, v in line.items() if v is not None}).encode() + b"\n")
        for addressee in (session, self.name, self.name.rpartition("-")[0]):
            if addressee is not None:
                self._obey(self._directory / "orders" / f"{addressee} {step}")

    def clock_is_off_by(self) -> float:
        """Seconds that this process's clock is told to be ahead of the machine's."""
        try:
            return float((self._directory / "clocks" / self.name).read_text())
        except FileNotFoundError:
            return 0.0

    @staticmethod
    def _obey(order: Path) -> None:
        try:
            what = order.read_text()
            if what != "kill all":
                # Of several processes that come to the step, one succeeds in taking the order away.
                order.rename(order.with_name(f"{order.name} obeyed"))
        except FileNotFoundError:
            return
        os.kill(os.getpid(), _SIGNALS[what])
        # The signal stops all threads, but not before this one has gone on for a moment: not past here.
        time.sleep(0.3)
