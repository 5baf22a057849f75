"""Pushes with Node and ioredis, as the Next.js app does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from typing import Final

from wearon_local import downloads
from wearon_local.app.next_app import Job
from wearon_local.paths import PRODUCER_DIR

_SPELLED_IN_JAVASCRIPT: Final = {
    "task_id": "taskId",
    "channel": "channel",
    "user_id": "userId",
    "store_id": "storeId",
    "session_id": "sessionId",
    "image_urls": "imageUrls",
    "prompt": "prompt",
    "request_id": "requestId",
}


def push_with_node(redis_url: str, jobs: Iterable[Job]) -> str:
    """Run node/push.mjs and return what it printed; `created_at` and `version` are its own.

    Raises downloads.DownloadFailed without Node, subprocess.CalledProcessError if the push fails.
    """
    downloads.producer_modules()
    described = [
        {js: job.task[name] for name, js in _SPELLED_IN_JAVASCRIPT.items() if name in job.task}
        for job in jobs
    ]
    pushed = subprocess.run(
        [downloads.node(), str(PRODUCER_DIR / "push.mjs"), redis_url],
        input=json.dumps(described),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return pushed.stdout
