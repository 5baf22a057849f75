"""Writes .env.example from the services' settings; with --check, only says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wearon_consumer.settings import ConsumerSettings
from wearon_generator.settings import GeneratorSettings
from wearon_service_kit.settings import env_example
from wearon_sizing.settings import SizingSettings

FILE = Path(__file__).resolve().parents[2] / ".env.example"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is stale")
    text = env_example(
        {"consumer": ConsumerSettings, "generator": GeneratorSettings, "sizing-api": SizingSettings}
    )
    if not parser.parse_args().check:
        FILE.write_text(text)
        return 0
    if FILE.exists() and FILE.read_text() == text:
        return 0
    print(f"{FILE.name} is stale: run make generated", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
