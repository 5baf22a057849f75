"""Opens one picture in a process of its own, so that memory or a flaw of a decoder ends that process only.

The child gets no environment, so none of the service's secrets; a limit on its memory and time; and it is the
first that the kernel ends when the container's memory runs out.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.decode import prepare_jpeg
from wearon_service_kit.images.errors import ImageRefused

_SECONDS: Final = 60  # an AVIF of 50 megapixels takes 4 s of a core
_PROGRAM_BYTES: Final = 384 * 1024 * 1024  # address space of Python, Pillow and its libraries
_OPENED, _REFUSED = b"\0", b"\1"


def prepare_in_child(data: bytes, *, max_side: int, memory: int) -> bytes:
    """`prepare_jpeg(data, max_side=max_side).jpeg` in a child that may take `memory` bytes for it.

    Blocks until it is done. Raises what `prepare_jpeg` raises; IMAGE_TOO_HEAVY when the child was ended.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own module, numbers as arguments
            [sys.executable, "-m", __name__, str(max_side), str(memory + _PROGRAM_BYTES)],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"MALLOC_ARENA_MAX": "1"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageRefused(ErrorCode.IMAGE_TOO_HEAVY, f"over {_SECONDS} s") from error
    kind, answer = done.stdout[:1], done.stdout[1:]
    if kind == _REFUSED:
        reason = json.loads(answer)
        raise ImageRefused(ErrorCode(reason["code"]), reason["detail"])
    if done.returncode != 0 or kind != _OPENED:
        raise ImageRefused(ErrorCode.IMAGE_TOO_HEAVY, f"child ended with {done.returncode}")
    return answer


def main() -> None:
    """The child: a picture on standard input, the answer on standard output."""
    max_side, memory = int(sys.argv[1]), int(sys.argv[2])
    with suppress(OSError):  # no such file outside Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    try:
        answer = _OPENED + prepare_jpeg(sys.stdin.buffer.read(), max_side=max_side).jpeg
    except ImageRefused as error:
        answer = _REFUSED + json.dumps({"code": error.code, "detail": error.detail}).encode()
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
