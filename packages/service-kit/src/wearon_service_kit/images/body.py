"""The body of an answer: how much of it is held, how it is unpacked, and what it turns out to be."""

from __future__ import annotations

import zlib
from typing import Final

from wearon_contracts.errors import ErrorCode
from wearon_service_kit.images.errors import ImageRefused
from wearon_service_kit.images.formats import IDENTIFY_BYTES, ImageFormat, refusal_of, sniff

_PACKED: Final = ("gzip", "x-gzip", "deflate")
# Really in use, and there is nothing here to undo them with.
_CANNOT_UNPACK: Final = ("br", "zstd")
# 32: gzip or zlib header, as found; 15: the largest window.
_WINDOW: Final = 32 + zlib.MAX_WBITS


class Body:
    """Collects a response body and takes no more than `max_bytes` of it, neither as sent nor as unpacked.

    gzip and deflate are undone although not asked for, some servers send them anyway; each step is told how
    much it may produce, so a decompression bomb stops there. What follows the end of the packed stream, such
    as padding, is passed over. Servers also send names that are no encodings
    (aws-chunked, UTF-8, base64, none): they mean nothing. `encoding` is the whole Content-Encoding header.
    Raises ImageRefused, as soon as it shows that the body is no picture or too large.
    """

    def __init__(self, encoding: str, max_bytes: int) -> None:
        names = [name.strip() for name in encoding.lower().split(",")]
        packed = [name for name in names if name in _PACKED]
        for name in names:
            if name in _CANNOT_UNPACK:
                raise ImageRefused(ErrorCode.IMAGE_ENCODING_REFUSED, name)
        if len(packed) > 1:
            raise ImageRefused(ErrorCode.IMAGE_ENCODING_REFUSED, "packed more than once")
        self._received = 0
        self._data = bytearray()
        self._max_bytes = max_bytes
        self._inflate = zlib.decompressobj(_WINDOW) if packed else None
        self._format: ImageFormat | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes as they came."""
        self._received += len(chunk)
        # As sent too: an endless tail, and endless empty blocks, unpack to nothing.
        self._refuse_over_limit(self._received)
        chunk = self._unpacked(chunk)
        self._refuse_over_limit(len(self._data) + len(chunk))
        self._data += chunk
        if self._format is None:
            self._format = sniff(self._data)
            if self._format is None and len(self._data) >= IDENTIFY_BYTES:
                raise refusal_of(self._data)

    def _refuse_over_limit(self, size: int) -> None:
        if size > self._max_bytes:
            raise ImageRefused(ErrorCode.IMAGE_TOO_LARGE, f"over {self._max_bytes} bytes")

    def _unpacked(self, chunk: bytes) -> bytes:
        if self._inflate is None:
            return chunk
        if self._inflate.eof:  # zlib would keep all that comes after it
            return b""
        try:
            return self._inflate.decompress(chunk, self._max_bytes + 1 - len(self._data))
        except zlib.error as error:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "content-encoding") from error

    def finish(self) -> tuple[bytes, ImageFormat]:
        """The whole body and what it begins like, once there are no more bytes."""
        if self._data and self._inflate is not None and not self._inflate.eof:
            raise ImageRefused(ErrorCode.IMAGE_DAMAGED, "content-encoding is cut off")
        if self._format is None:
            raise refusal_of(self._data)
        return bytes(self._data), self._format
