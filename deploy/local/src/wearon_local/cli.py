"""`python -m wearon_local`: the local stack by hand."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from wearon_local import demo, downloads
from wearon_local.downloads import DownloadFailed
from wearon_local.paths import LOCAL_DIR
from wearon_local.processes import ProcessFailed, free_port
from wearon_local.stack import PortName, ServiceName, Stack, end_on_sigterm
from wearon_local.studio.stack import serving_studio


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        with end_on_sigterm():
            return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except (DownloadFailed, ProcessFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} ended with {error.returncode}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wearon_local",
        description="Redis, PostgreSQL, PostgREST, a Supabase-shaped gateway and an OpenAI stand-in on "
        "loopback, with the services on top. For development: all of it, data included, goes when the "
        "command ends.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start everything and keep it running until Ctrl-C")
    for name in get_args(PortName):
        up.add_argument(f"--{name}-port", type=int, metavar="PORT", help="default: a free one")
    up.add_argument("--studio-port", type=int, metavar="PORT", help="of the studio page; default: a free one")
    up.add_argument("--consumers", type=int, default=1, metavar="N", help="how many, default 1")
    up.add_argument("--generators", type=int, default=1, metavar="N", help="how many, default 1")
    up.add_argument("--sizing-apis", type=int, default=1, metavar="N", help="how many, default 1")
    up.add_argument("--latency", type=float, default=5.0, metavar="S", help="of the stand-in, default 5 s")
    up.set_defaults(run=_up)

    show = commands.add_parser("demo", help="push four try-ons, show them being made, check the books")
    show.add_argument("--latency", type=float, default=2.0, metavar="S", help="of the stand-in, default 2 s")
    show.add_argument("--mode", metavar="WORD", help="let the stand-in misbehave, e.g. 500 or bad_base64")
    show.add_argument(
        "--output", type=Path, default=LOCAL_DIR / "demo", metavar="DIR", help="default .local/demo"
    )
    show.add_argument("--keep", action="store_true", help="keep everything running afterwards")
    show.set_defaults(run=_demo)

    fetch = commands.add_parser("download", help="fetch what is not on PyPI into .local/ beforehand")
    fetch.set_defaults(run=_download)
    return parser


def _up(parsed: argparse.Namespace) -> int:
    ports = {name: port for name in get_args(PortName) if (port := getattr(parsed, f"{name}_port"))}
    with Stack(ports=ports, openai_latency=parsed.latency, openai_jitter=parsed.latency / 5) as stack:
        wanted: dict[ServiceName, int] = {
            "consumer": parsed.consumers,
            "generator": parsed.generators,
            "sizing-api": parsed.sizing_apis,
        }
        started = [stack.start_service(n, wait=False) for n, count in wanted.items() for _ in range(count)]
        for service in started:
            service.wait_ready()
        _keep_running(stack, studio_port=parsed.studio_port)
    return 0


def _demo(parsed: argparse.Namespace) -> int:
    return demo.run(
        latency=parsed.latency,
        mode=parsed.mode,
        output=parsed.output,
        keep=_keep_running if parsed.keep else None,
    )


def _download(_: argparse.Namespace) -> int:
    print(downloads.postgrest())
    downloads.producer_modules()
    return 0


def _keep_running(stack: Stack, *, studio_port: int | None = None) -> None:
    with serving_studio(stack, studio_port or free_port()) as studio_url:
        _show_and_wait(stack, studio_url)


def _show_and_wait(stack: Stack, studio_url: str) -> None:
    print(f"\nLogs: {stack.logs}\n\n# For services of your own:")
    for name, value in {
        **stack.env_for("generator"),
        "SUPABASE_ANON_KEY": stack.anon_key,
        "DATABASE_URL": stack.database_url,
    }.items():
        print(f"export {name}={value}")
    print()
    for service in stack.services:
        print(f"{service.name:<14} {service.url}")
    print(f"{'studio page':<14} {studio_url}")
    print("\nCtrl-C stops everything.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
