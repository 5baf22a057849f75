"""An application of Next.js with the packed package and the README's route handlers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wearon_local.processes import free_port, wait_until
from wearon_local.stack import BUCKET, Stack

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".local/next-app"
WEBHOOK_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENVIRONMENT: Final = {"PATH": os.environ["PATH"], "HOME": "/tmp", "NEXT_TELEMETRY_DISABLED": "1"}


def _run(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def build(typescript: Path, packed: Path) -> str:
    """Build an application that consists of the README's examples, without any environment.

    `typescript`: the package's compiled sources; `packed`: a folder for the tarball. Returns what
    `next build` prints.
    """
    assert (FOLDER / "node_modules/next").is_dir(), "run `make next-app` first"
    name = _run("npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", packed, cwd=typescript)
    _run("npm", "install", "--no-save", "--no-audit", "--no-fund", packed / name.strip(), cwd=FOLDER)
    for folder in ("app", "lib", ".next"):
        shutil.rmtree(FOLDER / folder, ignore_errors=True)
    shutil.copytree(Path(__file__).parent / "next-app/app", FOLDER / "app")
    readme = (typescript / "README.md").read_text()
    examples = re.findall(r"```ts\n// ((?:app|lib)/\S+\.ts)\b.*?\n(.*?)```", readme, re.DOTALL)
    for path, source in examples:
        file = FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return _run("node_modules/.bin/next", "build", cwd=FOLDER)


@contextmanager
def serve(stack: Stack, sizing_url: str = "") -> Iterator[str]:
    """Start what was built, told where the stack is; its URL."""
    port = free_port()
    told = {
        "SUPABASE_URL": stack.gateway_url,
        "SUPABASE_ANON_KEY": stack.anon_key,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
        "STORAGE_BUCKET": BUCKET,
        "REDIS_URL": stack.redis_url,
        "SIZING_URL": sizing_url,
        "WEARON_WEBHOOK_SECRET": WEBHOOK_SECRET,
        # Before Node 22 a WebSocket, and so Realtime, has to be asked for.
        "NODE_OPTIONS": "--experimental-websocket",
    }
    log = stack.logs / f"next-app-{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["node_modules/.bin/next", "start", "-H", "127.0.0.1", "-p", str(port)],
            cwd=FOLDER,
            env={**ENVIRONMENT, **told},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_until(lambda: "Ready in" in log.read_text(), timeout=60, what="next start")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
