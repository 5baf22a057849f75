"""The studio page of a `Stack`: its workers are child processes, so the page can kill one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wearon_local.stack import Stack
from wearon_local.studio.queue import Events, StackWorkers
from wearon_local.studio.server import open_studio, serving
from wearon_local.studio.sizing import SizingOverlayRenderer


@contextmanager
def serving_studio(stack: Stack, port: int) -> Iterator[str]:
    """Serve the page while the block runs; gives its address.

    A sizing API has to run already, if one is to.
    """
    events = Events()
    workers = StackWorkers(
        lambda: list(stack.services), lambda: stack.start_service("generator", wait=False), events
    )
    sizing = [service.url for service in stack.services if service.name.startswith("sizing-api")]
    studio = open_studio(
        stack.app,
        sizing_url=sizing[0] if sizing else None,
        renderer=SizingOverlayRenderer(Path(stack.env_for("sizing-api")["MEDIAPIPE_MODEL_PATH"])),
        workers=workers,
        events=events,
    )
    try:
        with serving(studio, port) as url:
            yield url
    finally:
        workers.close()
