"""Writes .env.example from the services' settings; with --check, only says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from generated_file import write_or_check

from wearon_consumer.settings import ConsumerSettings
from wearon_generator.settings import GeneratorSettings
from wearon_service_kit.settings import env_example
from wearon_sizing.settings import SizingSettings

FILE = Path(__file__).resolve().parents[2] / ".env.example"


def render() -> str:
    """The whole file."""
    return env_example(
        {"consumer": ConsumerSettings, "generator": GeneratorSettings, "sizing-api": SizingSettings}
    )


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, render, description=__doc__, rule="generated"))
