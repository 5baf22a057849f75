"""What a process costs, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    """Empty if the process has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        for task in Path(f"/proc/{current}/task").glob("*/children"):
            queue += [int(child) for child in _read(task).split()]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its living descendants."""
    total = 0.0
    for member in family(pid):
        fields = _read(Path(f"/proc/{member}/stat")).rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0
    return total


def pss_mb(pid: int) -> float:
    """Proportional set size of the process and its descendants, in MB (10^6 bytes)."""
    total = 0
    for member in family(pid):
        for line in _read(Path(f"/proc/{member}/smaps_rollup")).splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total * 1024 / 1e6


def rss_mb(pid: int) -> float:
    """Resident set size of the process alone, in MB."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no VmRSS for {pid}")
