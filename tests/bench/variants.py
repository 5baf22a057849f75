"""Other ways to run the same job, as processes of their own: `python variants.py prefork N | plain-pillow`.

prefork N: Celery's default pool with N children, each with clients and an event loop of its own, one job at a
time per child. plain-pillow: the generator as it is shipped, but for the resize, which decodes at full size.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from celery import signals
from PIL import Image, ImageOps
from prometheus_client import CollectorRegistry

from wearon_contracts.queues import PROCESS_GENERATION_TASK
from wearon_generator import __main__, image_processor
from wearon_generator.celery_app import create_celery_app
from wearon_generator.runtime import Runtime
from wearon_generator.settings import GeneratorSettings
from wearon_generator.timing import Timing
from wearon_service_kit.images.decode import PreparedImage
from wearon_service_kit.logs import configure_logging
from wearon_service_kit.settings import load_settings


def run_prefork(children: int) -> int:
    settings = load_settings(GeneratorSettings)
    configure_logging("generator", settings.log_level, settings.log_format)
    app = create_celery_app(
        settings.redis_url.get_secret_value(),
        concurrency=children,
        visibility_timeout=Timing().visibility_timeout,
    )
    app.conf.worker_pool = "prefork"
    child: dict[str, Runtime] = {}

    def build(**_: Any) -> None:
        child["runtime"] = Runtime(settings, CollectorRegistry())
        child["runtime"].start()

    # Not shared: it would replace the task of that name in the runtime's own application.
    @app.task(name=PROCESS_GENERATION_TASK, shared=False)
    def process_generation(payload: dict[str, Any]) -> None:
        child["runtime"].celery.tasks[PROCESS_GENERATION_TASK](payload)

    signals.worker_process_init.connect(build, weak=False)
    signals.setup_logging.connect(lambda **_: None, weak=False)
    worker = app.Worker(quiet=True, without_gossip=True, without_mingle=True, without_heartbeat=True)
    worker.start()
    return int(worker.exitcode or 0)


def plain_prepare(data: bytes, *, max_side: int = 1024) -> PreparedImage:
    """What the first, single-process worker did: decode everything, turn, shrink, encode."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return PreparedImage(out.getvalue(), *image.size)


def run_plain_pillow() -> int:
    image_processor.prepare_jpeg = plain_prepare
    return __main__.main([])


if __name__ == "__main__":
    sys.exit(run_prefork(int(sys.argv[2])) if sys.argv[1] == "prefork" else run_plain_pillow())
