"""Child processes that end with their parent, however that ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG: Final = 1
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
"""What a child sees of the caller's environment: a developer's own keys and URLs must not leak into it."""

# Below the range from which Linux takes the ports of outgoing connections, so that none is taken meanwhile.
_PORTS: Final = range(20000, 32000)
_SHARES: Final = 16
_given_ports: set[int] = set()
_ports_lock = threading.Lock()


class ProcessFailed(RuntimeError):
    """A process ended or did not become ready; the message ends with what it last wrote."""


def free_port() -> int:
    """A loopback TCP port that nothing listens on and that was not handed out before in this process."""
    with _ports_lock:
        for _ in range(1000):
            # Tests run in several processes at once: each has ports of its own.
            port = random.choice(_PORTS[os.getpid() % _SHARES :: _SHARES])
            if port in _given_ports:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            _given_ports.add(port)
            return port
    raise RuntimeError("no free loopback port found")


def wait_until(condition: Callable[[], T | None], *, timeout: float, what: str, every: float = 0.05) -> T:
    """Poll `condition` until it is truthy and return its value.

    Raises TimeoutError naming `what` after `timeout` seconds; whatever `condition` raises ends the wait.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)


def listens(port: int) -> bool:
    """Whether something accepts connections on the loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def passed_on_environment() -> dict[str, str]:
    """The part of the caller's environment that children get."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


class Process:
    """One child in a process group of its own, writing to a log file."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens if it is gone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self._popen.wait(10)

    def terminate(self, *, timeout: float = 10) -> int:
        """SIGTERM, then SIGKILL after `timeout` seconds; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_or_kill(timeout)

    def wait_or_kill(self, timeout: float) -> int:
        """Wait for it to end by itself, SIGKILL after `timeout` seconds; returns the exit code."""
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait(10)

    def pause(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Wait for it to end by itself; raises subprocess.TimeoutExpired."""
        return self._popen.wait(timeout)

    def log(self) -> str:
        """All it has written so far."""
        return self.log_path.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], T | None], *, timeout: float = 30, what: str = "ready") -> T:
        """Poll `ready` while it runs; raises ProcessFailed with the end of its log."""

        def ready_or_dead() -> T | None:
            if not self.running:
                raise ProcessFailed(f"{self.name} ended with {self.returncode}: {self._log_end()}")
            return ready()

        try:
            return wait_until(ready_or_dead, timeout=timeout, what=what, every=0.02)
        except TimeoutError as error:
            raise ProcessFailed(f"{self.name}: {error}: {self._log_end()}") from None

    def _log_end(self) -> str:
        lines = self.log().strip().splitlines()[-15:]
        return "\n".join(lines) or f"nothing written to {self.log_path}"


class Nursery:
    """Starts processes in one directory; all of them, and the directory, go when it closes or its owner dies.

    The kernel sends a child's death signal when the *thread* that started it ends, so one thread that lives
    as long as this object starts them all. A small shell waits on a pipe to remove the directory should this
    process be killed.
    """

    def __init__(self, *, keep: Path | None = None) -> None:
        """`keep`: a directory to use and to leave in place, instead of a temporary one."""
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        self.directory = keep or Path(tempfile.mkdtemp(prefix="wearon-", dir=_temporary_parent()))
        self._temporary = keep is None
        self.directory.chmod(0o711)
        (self.directory / "logs").mkdir(exist_ok=True)
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="nursery")
        self._processes: list[Process] = []
        self._janitor = self._start_janitor() if self._temporary else None

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> Process:
        """Start `argv` with `env` on top of the passed-on environment; its output goes to logs/<name>.log.

        `user`: the uid and gid to run as (needs root). `death_signal`: what it gets when this process dies.
        """
        log_path = self.directory / "logs" / f"{name}.log"
        full_env = {**passed_on_environment(), **(env or {})}
        spawned = self._starter.submit(
            _spawn,
            [str(a) for a in argv],
            env=full_env,
            cwd=cwd or self.directory,
            log_path=log_path,
            user=user,
            death_signal=death_signal,
        )
        process = Process(name, spawned.result(), log_path)
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill what still runs and remove the directory (a kept one stays)."""
        for process in reversed(self._processes):
            process.kill()
        self._starter.shutdown()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self._janitor is not None:
            self._janitor.communicate()

    def _start_janitor(self) -> subprocess.Popen[bytes]:
        wait_then_remove = 'cat; for i in 1 2 3 4 5; do rm -rf -- "$0" && exit 0; sleep 0.3; done'
        return subprocess.Popen(
            ["/bin/sh", "-c", wait_then_remove, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _spawn(
    argv: list[str],
    *,
    env: dict[str, str],
    cwd: Path,
    log_path: Path,
    user: int | None,
    death_signal: signal.Signals,
) -> subprocess.Popen[bytes]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def die_with_parent() -> None:
        # After the change of user, which would clear the setting.
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    with log_path.open("ab") as log:
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user is not None else None,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - it takes no lock: one call into the kernel
        )


def reachable_by_others(path: Path) -> bool:
    """Whether a user without rights of its own may enter every directory down to `path`."""
    return all(directory.stat().st_mode & 0o001 for directory in (path, *path.parents) if directory.is_dir())


def _temporary_parent() -> str | None:
    # Started by root, PostgreSQL runs as another user, who must be able to enter the directory.
    if os.geteuid() == 0 and not reachable_by_others(Path(tempfile.gettempdir())):
        return "/tmp"
    return None
