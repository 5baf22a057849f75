"""deploy/ship with a stand-in of ssh that runs on this machine what it is told to run on the server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DIGEST: Final = "sha256:" + "0123456789abcdef" * 4


def test_copy_that_does_not_fit_on_the_server_is_taken_away_again(tmp_path: Path) -> None:
    """So that a disk which was full does not stay full for that, and nothing is rolled out."""
    server, programs = tmp_path / "server", tmp_path / "bin"
    server.mkdir()
    programs.mkdir()
    for name, text in {
        "ssh": f'echo "${{@: -1}}" >>{tmp_path}/asked\nexec bash -c "${{@: -1}}"',
        # It writes the files, and ends with an error.
        "tar": '[[ "$*" == *-xf* ]] || exec /bin/tar "$@"\n'
        '/bin/tar "$@" && echo "No space left on device" >&2\nexit 2',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "REMOTE_DIR": str(server)}
    environment.pop("DATABASE_URL", None)
    images = [f"registry:5000/{name}@{DIGEST}" for name in ("consumer", "generator", "sizing")]
    argv = [ROOT / "deploy/ship", "deploy@server", *images]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "No space left" in done.stderr) == (1, True)
    assert list(server.iterdir()) == []
    assert "rollout" not in (tmp_path / "asked").read_text()
