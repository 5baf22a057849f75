"""One try-on with a real OpenAI key, everything else local: the picture, the seconds and the cost.

    OPENAI_API_KEY=... make try-real [PERSON=me.jpg] [GARMENT=shirt.jpg]

The key may also stand in .env. It costs a few cents. The picture is written to .local/try-real/.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import Field, SecretStr

from wearon_generator.models import DEFAULT_MODEL
from wearon_generator.settings import ProxySettings
from wearon_local.app.next_app import SAMPLE_GARMENT, SAMPLE_PERSON
from wearon_local.paths import LOCAL_DIR
from wearon_local.stack import Stack, end_on_sigterm
from wearon_service_kit.settings import HttpUrl, Secret, load_settings

_LONGEST = 400.0
"""Seconds until it is given up: the job's own deadline, and some for what comes before and after."""


class TryRealSettings(ProxySettings):
    """What differs from the local stack, as in the generator's settings."""

    openai_api_key: Annotated[Secret, Field(description="Your own key; this costs money.")]
    openai_base_url: Annotated[HttpUrl | None, Field(description="Another server than OpenAI's.")] = None
    openai_org_id: str | None = None
    openai_project_id: str | None = None
    openai_model: Annotated[str, Field(min_length=1, description="Image model.")] = DEFAULT_MODEL
    openai_quality: str | None = None
    openai_size: str | None = None
    openai_complexity: str | None = None

    def environment(self) -> dict[str, str]:
        """What the generator is given; a blank variable counts as not set."""
        values = {name.upper(): getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
            for name, value in values.items()
            if not name.startswith("LOG_")
        }


def main() -> int:
    """Exit code 0 when there is a picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--person", type=Path, default=SAMPLE_PERSON, help="photo of a person")
    parser.add_argument("--garment", type=Path, default=SAMPLE_GARMENT, help="photo of a garment")
    arguments = parser.parse_args()
    settings = load_settings(TryRealSettings)
    with end_on_sigterm(), Stack() as stack:
        stack.start_service("consumer")
        stack.start_service(
            "generator",
            settings.environment(),
        )
        app = stack.app
        user = app.create_user(credits=1)
        urls = app.upload_inputs(user, [arguments.person, arguments.garment])
        job = app.b2c_job(user, image_urls=urls)
        started = time.monotonic()
        app.push(job)
        print(f"One try-on with {settings.openai_model}: this takes 10 to 60 s ...", flush=True)
        (row,) = app.wait_settled(job, timeout=_LONGEST)
        seconds = time.monotonic() - started
        if row["status"] != "completed":
            print(f"Failed after {seconds:.1f} s: {row['error_message']}", file=sys.stderr)
            for event in stack.services[1].events(session_id=str(job.session_id)):
                print(f"  {event['event']}: {event.get('detail', '')}", file=sys.stderr)
            print(f"Credits: {app.balance(user)} of 1 (given back).", file=sys.stderr)
            return 1
        picture = app.download(row["generated_image_url"]).raise_for_status().content
    target = LOCAL_DIR / "try-real" / f"{time.strftime('%Y%m%d-%H%M%S')}.jpg"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture)
    width, height = Image.open(io.BytesIO(picture)).size
    cost = row["estimated_cost_usd"]
    print(f"Picture   {target} ({width}×{height}, {len(picture) // 1024} KiB)")
    print(f"Seconds   {seconds:.1f}, of which {row['processing_time_ms'] / 1000:.1f} in work")
    print(f"Tokens    {row['input_tokens']} in, {row['output_tokens']} out")
    print(f"Cost      {f'{cost:.4f} USD' if cost is not None else 'not known for this model'} (our estimate)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
