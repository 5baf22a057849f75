"""The command `wearon-sizing`: serve, explain a photo as a picture, print the OpenAPI document."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import structlog
import uvicorn

from wearon_contracts.errors import sentence
from wearon_contracts.sizing import HEIGHT_CM, WEIGHT_KG, Gender
from wearon_service_kit.images.errors import ImageRefused
from wearon_service_kit.logs import configure_logging
from wearon_service_kit.settings import load_settings
from wearon_service_kit.tracing import start_tracing
from wearon_sizing.answers import SHOPPERS_PHOTO
from wearon_sizing.app import create_app
from wearon_sizing.explain import explain, explain_refusal
from wearon_sizing.gates import by_size
from wearon_sizing.measuring import load_method
from wearon_sizing.pose import Landmarker, ModelMissingError
from wearon_sizing.settings import SizingSettings
from wearon_sizing.sizing import (
    PhotoRefusedError,
    Shopper,
    assess,
    find_person_among,
    open_photo,
    side_person_or_code,
)
from wearon_sizing.without_photo import without_photo

# Kinds of pictures that `explain` writes.
DRAWINGS: Final = (".png", ".jpg", ".jpeg", ".webp")

_log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    command = getattr(options, "command", serve)
    code: int = command(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wearon-sizing",
        description="Body measurements and a clothing size from one photo. Without a command: serve.",
    )
    commands = parser.add_subparsers(title="commands", metavar="")

    serving = commands.add_parser("serve", help="run the HTTP service; settings come from the environment")
    serving.set_defaults(command=serve)

    explaining = commands.add_parser(
        "explain", help="draw what is measured in a photo", description="Draws what is measured in a photo."
    )
    explaining.add_argument(
        "photo", type=Path, help="JPEG, PNG, WebP or AVIF of the whole body from the front"
    )
    explaining.add_argument(
        "--height", type=_between(*HEIGHT_CM), required=True, metavar="CM", help="height in cm"
    )
    explaining.add_argument(
        "--weight", type=_between(*WEIGHT_KG), metavar="KG", help="weight in kg, if known"
    )
    explaining.add_argument(
        "--gender", type=Gender, choices=list(Gender), metavar="GENDER", help="female, male or other"
    )
    explaining.add_argument("--side", type=Path, metavar="PHOTO", help="a second photo, in profile")
    explaining.add_argument(
        "-o", "--output", type=_drawing, default=Path("explained.png"), help="default: %(default)s"
    )
    explaining.set_defaults(command=explain_photo)

    describing = commands.add_parser("openapi", help="print the OpenAPI document")
    describing.set_defaults(command=print_openapi)
    return parser


def _between(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


def _drawing(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in DRAWINGS:
        raise argparse.ArgumentTypeError(f"{text} ends in none of {', '.join(DRAWINGS)}")
    return path


def serve(_options: argparse.Namespace) -> int:
    """The service, until SIGTERM or SIGINT."""
    settings = load_settings(SizingSettings)
    configure_logging("sizing-api", settings.log_level, settings.log_format, secrets=settings.secret_values())
    tracer = start_tracing("wearon-sizing", settings)
    config = uvicorn.Config(
        create_app(settings, tracer),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        # Without these two uvicorn asks the environment.
        workers=1,
        forwarded_allow_ips="127.0.0.1,::1",
    )
    server = uvicorn.Server(config)
    # When uvicorn has ended its work it raises the signal again, which by itself would end the process there.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        # uvicorn itself would listen on `::` for IPv6 alone.
        server.run(sockets=[_dual_stack(settings)] if ":" in settings.host else None)
    finally:
        tracer.stop()
    return 0 if server.started else 1


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _dual_stack(settings: SizingSettings) -> socket.socket:
    try:
        return socket.create_server(
            (settings.host, settings.port), family=socket.AF_INET6, dualstack_ipv6=True
        )
    except OSError as error:
        _log.error("port_not_available", port=settings.port, error=str(error))
        raise SystemExit(1) from error


def explain_photo(options: argparse.Namespace) -> int:
    """Write the picture; for a photo that is refused, it shows why. 1 where nothing was measured."""
    settings = load_settings(SizingSettings)
    shopper = Shopper(options.height, options.weight, options.gender)
    method = load_method()
    try:
        picture = open_photo(options.photo.read_bytes())
        with Landmarker(settings.mediapipe_model_path) as landmarker:
            people = by_size(landmarker.detect(picture))
            try:
                person = find_person_among(people, landmarker, picture)
                side = options.side and side_person_or_code(landmarker, options.side.read_bytes())
                assessment = assess(person, shopper, method, side)
            except PhotoRefusedError as refused:
                said = sentence(refused.code, SHOPPERS_PHOTO)
                fallback = without_photo(shopper, method.population, method.body_type_edges)
                explain_refusal(picture, people, said, fallback, shopper).save(options.output)
                sys.stderr.write(f"{refused.code.value}: {said}\ndrawn in {options.output}\n")
                return 1
        explain(picture, person, assessment, shopper).save(options.output)
    except ImageRefused as refused:
        sys.stderr.write(f"{refused.code.value}: {sentence(refused.code, SHOPPERS_PHOTO)}\n")
        return 1
    except (OSError, ModelMissingError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{assessment.advice.size.value}, drawn in {options.output}\n")
    return 0


def print_openapi(_options: argparse.Namespace) -> int:
    """The document as it is committed beside the service."""
    sys.stdout.write(openapi_document())
    return 0


def openapi_document() -> str:
    """The OpenAPI document of the service as text, the same everywhere."""
    app = create_app(SizingSettings.model_construct())
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"
