"""Ways for a web server to misbehave. Each writes until it is done, the client hangs up or `stop` is set."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from hostile.images import photo
from wearon_contracts.errors import ErrorCode

Respond = Callable[[socket.socket, threading.Event], None]

_MB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostileResponse:
    """`path` where the server plays it; `waits`: it ends only with the client's own time limit."""

    name: str
    code: ErrorCode
    respond: Respond
    path: str
    waits: bool = False


def head(status: str = "200 OK", content_type: str | None = "image/jpeg", **headers: str | int) -> bytes:
    lines = [f"HTTP/1.1 {status}"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole(
    body: bytes, content_type: str | None = "image/jpeg", status: str = "200 OK", **headers: str | int
) -> bytes:
    """A well-formed answer."""
    return head(status, content_type, Content_Length=len(body), **headers) + body


def _send(answer: Callable[[], bytes], connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(answer())


def _endless(start: bytes, block: bytes, connection: socket.socket, stop: threading.Event) -> None:
    connection.sendall(start)
    while not stop.is_set():
        connection.sendall(block)


def _drip(start: bytes, piece: bytes, connection: socket.socket, stop: threading.Event) -> None:
    """A byte or two every 50 ms: no pause is long, the whole never ends."""
    connection.sendall(start)
    while not stop.wait(0.05):
        connection.sendall(piece)


def _silent(connection: socket.socket, stop: threading.Event) -> None:
    connection.settimeout(0.1)
    while not stop.is_set():
        with suppress(TimeoutError):
            if not connection.recv(1024):
                return


def _chunked(block: bytes) -> bytes:
    return f"{len(block):x}\r\n".encode() + block + b"\r\n"


def _bomb(encoding: str, window_bits: int) -> bytes:
    """200 MB in 200 kB, announced with its small length."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    body = packer.compress(photo()) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block refers to nothing before it, so one stands for all.
    body += (packer.compress(bytes(_MB)) + packer.flush(zlib.Z_FULL_FLUSH)) * 200
    return whole(body, Content_Encoding=encoding)


def _endless_empty_blocks(connection: socket.socket, stop: threading.Event) -> None:
    """Each is well-formed and unpacks to nothing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 15)
    start = packer.compress(photo()) + packer.flush(zlib.Z_FULL_FLUSH)
    empty_block = b"\0\0\0\xff\xff"
    _endless(head(Content_Encoding="deflate") + start, empty_block * 13_000, connection, stop)


def _supabase(code: int, error: str, message: str) -> bytes:
    body = json.dumps({"statusCode": str(code), "error": error, "message": message}).encode()
    return whole(body, "application/json", "400 Bad Request")


def _case(
    name: str,
    code: ErrorCode,
    answer: bytes | Callable[[], bytes] | Respond,
    *,
    path: str = "",
    waits: bool = False,
    play: bool = False,
) -> HostileResponse:
    respond: Respond
    if isinstance(answer, bytes):
        respond = partial(_send, lambda: answer)
    elif play:
        respond = answer  # type: ignore[assignment]
    else:
        respond = partial(_send, answer)  # type: ignore[arg-type]
    return HostileResponse(name, code, respond, path or f"/responses/{name}", waits)


_played = partial(_case, play=True)
_E: Final = ErrorCode
_SIGNED: Final = "/storage/v1/object/sign/images/inputs/u/a.jpg?token=eyJhbGciOiJIUzI1NiJ9.e30.x"
_HTML: Final = b"<!DOCTYPE html><title>Hello</title><img src=a.jpg>"
_SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
_GIF: Final = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
_HEIC: Final = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


HOSTILE_RESPONSES: Final = (
    *(
        _case(
            f"redirect-{status}",
            _E.IMAGE_REDIRECT_REFUSED,
            whole(b"", None, f"{status} Moved", Location=target),
        )
        for status, target in (
            (301, "http://169.254.169.254/latest/meta-data/"),
            (302, "/responses/redirect-302"),
            (303, "file:///etc/passwd"),
            (307, "http://127.0.0.1:6379/"),
            (308, "http://[::1]/"),
            (300, "https://shop.example/a.jpg"),
        )
    ),
    *(
        _case(f"status-{status}", _E.IMAGE_HTTP_ERROR, whole(photo(), status=f"{status} No"))
        for status in (201, 203, 206, 304, 305, 400, 401, 403, 404, 405, 410, 416, 451)
    ),
    _case("status-101", _E.IMAGE_UNREACHABLE, head("101 Switching Protocols", None, Upgrade="x")),
    _case("status-204", _E.IMAGE_HTTP_ERROR, head("204 No Content", None)),
    *(
        _case(f"status-{status}", _E.IMAGE_UNREACHABLE, whole(b"later", "text/plain", f"{status} Later"))
        for status in (408, 429, 500, 502, 503, 504, 599)
    ),
    _case("announces-too-much", _E.IMAGE_TOO_LARGE, head(Content_Length=11 * _MB) + photo()),
    _case("announces-terabytes", _E.IMAGE_TOO_LARGE, head(Content_Length=10**15) + photo()),
    _case("sends-too-much", _E.IMAGE_TOO_LARGE, lambda: head() + photo() + bytes(10 * _MB)),
    _played("endless", _E.IMAGE_TOO_LARGE, partial(_endless, head() + photo(), bytes(65536))),
    _played(
        "endless-chunked",
        _E.IMAGE_TOO_LARGE,
        partial(_endless, head(Transfer_Encoding="chunked") + _chunked(photo()), _chunked(bytes(65536))),
    ),
    _case("gzip-bomb", _E.IMAGE_TOO_LARGE, lambda: _bomb("gzip", 31)),
    _case("deflate-bomb", _E.IMAGE_TOO_LARGE, lambda: _bomb("deflate", 15)),
    _played(
        "gzip-with-endless-tail",
        _E.IMAGE_TOO_LARGE,
        partial(_endless, head(Content_Encoding="gzip") + gzip.compress(photo()), bytes(65536)),
    ),
    _played("deflate-of-endless-empty-blocks", _E.IMAGE_TOO_LARGE, _endless_empty_blocks),
    _case(
        "gzip-in-gzip",
        _E.IMAGE_ENCODING_REFUSED,
        lambda: whole(gzip.compress(gzip.compress(photo())), Content_Encoding="gzip, gzip"),
    ),
    _case("brotli", _E.IMAGE_ENCODING_REFUSED, whole(photo(), Content_Encoding="br")),
    _case("zstandard", _E.IMAGE_ENCODING_REFUSED, whole(photo(), Content_Encoding="aws-chunked, zstd")),
    _case("base64", _E.IMAGE_TYPE_REFUSED, whole(base64.b64encode(photo()), Content_Encoding="base64")),
    _case("gzip-that-is-none", _E.IMAGE_DAMAGED, whole(photo(), Content_Encoding="gzip")),
    _case(
        "gzip-cut-off", _E.IMAGE_DAMAGED, lambda: whole(gzip.compress(photo())[:-20], Content_Encoding="gzip")
    ),
    _case("announces-too-little", _E.IMAGE_DAMAGED, head(Content_Length=500) + photo()),
    _case("announces-more-than-it-sends", _E.IMAGE_UNREACHABLE, head(Content_Length=_MB) + photo()),
    _case(
        "contradicting-lengths",
        _E.IMAGE_UNREACHABLE,
        head(Content_Length=5).removesuffix(b"\r\n") + b"Content-Length: 6\r\n\r\n" + photo(),
    ),
    _case("length-of-5000-digits", _E.IMAGE_UNREACHABLE, head(Content_Length="9" * 5000) + photo()),
    _case("length-is-no-number", _E.IMAGE_UNREACHABLE, head(Content_Length="many") + photo()),
    _case("broken-chunk", _E.IMAGE_UNREACHABLE, head(Transfer_Encoding="chunked") + b"zz\r\n" + photo()),
    _case(
        "drops-in-the-body", _E.IMAGE_UNREACHABLE, head(Transfer_Encoding="chunked") + _chunked(photo()[:999])
    ),
    _case("drops-in-the-header", _E.IMAGE_UNREACHABLE, b"HTTP/1.1 200 OK\r\nContent-Ty"),
    _case("drops-at-once", _E.IMAGE_UNREACHABLE, b""),
    _case("not-http", _E.IMAGE_UNREACHABLE, b"-ERR unknown command 'GET'\r\n" * 20),
    _case("header-flood", _E.IMAGE_UNREACHABLE, b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000),
    _played(
        "endless-header", _E.IMAGE_UNREACHABLE, partial(_endless, b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536)
    ),
    _played("silent", _E.IMAGE_TIMEOUT, _silent, waits=True),
    _played("slow-header", _E.IMAGE_TIMEOUT, partial(_drip, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), waits=True),
    _played("slow-body", _E.IMAGE_TIMEOUT, partial(_drip, head() + photo(), b"\0"), waits=True),
    _played(
        "slow-announced-body",
        _E.IMAGE_TIMEOUT,
        partial(_drip, head(Content_Length=_MB) + photo(), b"\0"),
        waits=True,
    ),
    _played(
        "early-hints-forever",
        _E.IMAGE_TIMEOUT,
        partial(_drip, b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        waits=True,
    ),
    *(
        _case(f"{name}-called-{label.replace('/', '-') or 'nothing'}", code, whole(body, label or None))
        for name, code, body in (
            ("html", _E.IMAGE_WEB_PAGE, _HTML),
            ("svg", _E.IMAGE_SVG, _SVG),
            ("gif", _E.IMAGE_GIF, _GIF),
            ("heic", _E.IMAGE_HEIC, _HEIC),
            ("pdf", _E.IMAGE_PDF, b"%PDF-1.7\n" + bytes(64)),
            ("mp4", _E.IMAGE_VIDEO, b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(64)),
            ("bmp", _E.IMAGE_TYPE_REFUSED, photo("BMP")),
            ("tiff", _E.IMAGE_TYPE_REFUSED, photo("TIFF")),
            ("wave", _E.IMAGE_TYPE_REFUSED, b"RIFF\x24\0\0\0WAVEfmt " + bytes(64)),
            ("json", _E.IMAGE_TYPE_REFUSED, b'{"error": "not found"}'),
        )
        for label in ("image/jpeg", "image/png", "image/*", "text/html", "application/octet-stream", "")
    ),
    _case("one-byte", _E.IMAGE_TYPE_REFUSED, whole(b"\xff")),
    _case("empty", _E.IMAGE_EMPTY, whole(b"")),
    _case(
        "expired",
        _E.IMAGE_URL_EXPIRED,
        _supabase(400, "InvalidJWT", '"exp" claim timestamp check failed'),
        path=_SIGNED,
    ),
    _case(
        "signed-but-missing",
        _E.IMAGE_HTTP_ERROR,
        _supabase(404, "not_found", "Object not found"),
        path=_SIGNED.replace("a.jpg", "missing.jpg"),
    ),
)
