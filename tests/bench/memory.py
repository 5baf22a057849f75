"""What the worst legal task takes of the memory of a generator of 1 GiB, and what becomes of other jobs."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from PIL import Image
from tests.bench.generator import Bench, bench
from tests.bench.processes import family
from tests.bench.report import Section, at_least, at_most, plain

from wearon_contracts.sessions import SETTLED
from wearon_contracts.tasks import MAX_IMAGES
from wearon_local.app.next_app import Job
from wearon_local.processes import wait_until
from wearon_service_kit.memory import MB

LIMIT_MB = 1024
PADDED_BYTES = 9_900_000
"""Of each of the worst task's pictures; a download may have 10 MB."""
ORDINARY_JOBS = 40
LATENCY = 10.0
"""Seconds at the provider, so that ordinary jobs are in work while the worst task's pictures are prepared."""
_CGROUPS = Path("/sys/fs/cgroup")


def _webp(width: int, height: int) -> bytes:
    output = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(output, "WEBP", method=0)
    data = output.getvalue()
    return data + bytes(PADDED_BYTES - len(data))


@contextmanager
def _container() -> Iterator[Path | None]:
    """A cgroup with `LIMIT_MB` of memory; None where this user may not make one."""
    version_1 = (_CGROUPS / "memory" / "memory.limit_in_bytes").exists()
    group = _CGROUPS / ("memory" if version_1 else "") / f"wearon-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        limit = group / ("memory.limit_in_bytes" if version_1 else "memory.max")
        limit.write_text(str(LIMIT_MB * MB))
    except OSError:
        group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), timeout=30, what="the cgroup is empty")
        group.rmdir()


def _resident_mb(pid: int) -> float:
    """Of a process and its children, private and shared pages alike."""
    total = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/statm").read_text().split()
        except OSError:
            continue
        total += int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 1e6


def _worst_job(running: Bench) -> Job:
    """One picture of 50 megapixels and fifteen of 8.3, as WebP, of nearly 10 MB each."""
    app = running.stack.app
    sizes = [(8160, 6144), *[(3840, 2160)] * (MAX_IMAGES - 1)]
    files = {size: _webp(*size) for size in set(sizes)}
    urls = [
        app.sign(app.upload(f"uploads/{running.user}/{uuid4()}", files[size], content_type="image/webp"))
        for size in sizes
    ]
    return app.b2c_job(running.user, image_urls=urls)


def run(quick: bool) -> list[Section]:
    ordinary = ORDINARY_JOBS // 2 if quick else ORDINARY_JOBS
    section = Section(
        f"Memory: a generator of {LIMIT_MB} MiB with {ordinary} ordinary jobs and the worst legal task"
    )
    with _container() as container, bench(LATENCY) as running:
        app = running.stack.app
        worst, jobs = _worst_job(running), running.jobs(ordinary)
        env = running.environment(MEMORY_LIMIT_MB=str(LIMIT_MB))
        generator = running.stack.start_service("generator", env, wait=False)
        if container is not None:
            (container / "cgroup.procs").write_text(str(generator.process.pid))
        generator.wait_ready()
        app.push(*jobs[: ordinary // 2], worst, *jobs[ordinary // 2 :])
        began, peak = time.monotonic(), 0.0
        while generator.running and app.session(worst)["status"] not in SETTLED:
            peak = max(peak, _resident_mb(generator.process.pid))
            if time.monotonic() - began > 300:
                raise TimeoutError("the worst task does not end")
            time.sleep(0.05)
        seconds = time.monotonic() - began
        if generator.running:
            app.wait_settled(*jobs, timeout=120)
        completed = sum(app.session(job)["status"] == "completed" for job in [worst, *jobs])
        alive = generator.running
    where = "in a cgroup of that limit" if container else "no cgroup: this user may not make one"
    section.lines = [
        at_most("peak memory, RSS with children", peak, LIMIT_MB * MB / 1e6, "MB", where),
        at_least("jobs that complete, the worst one too", completed, ordinary + 1, ""),
        at_most("generators killed", int(not alive), 0, ""),
        plain("the worst task, from its push to its result", seconds, "s"),
    ]
    return [section]
