"""Where finished pictures are kept."""

from __future__ import annotations

from typing import Final

from storage3.exceptions import StorageApiError
from supabase import AsyncClient

_REFUSED_FOR_GOOD: Final = ("413", "415")
"""Too large for the bucket, or of a type that it does not take: sending it again changes nothing."""
_CONTENT_TYPES: Final = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


class BucketMissing(Exception):
    """The bucket for results does not exist."""


class ResultRefused(Exception):
    """The bucket's own limits do not let this picture in."""


def content_type(data: bytes) -> str | None:
    """MIME type by the first bytes; None if it is not a picture the provider could have sent."""
    for magic, mime in _CONTENT_TYPES:
        if data.startswith(magic):
            return mime
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


class ResultStore:
    """Results in one bucket of Supabase Storage."""

    def __init__(
        self, client: AsyncClient, bucket: str, ttl_seconds: int, *, origin: str, public_origin: str | None
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._ttl_seconds = ttl_seconds
        self._origin = origin
        self._public_origin = public_origin or origin

    async def check_bucket(self) -> None:
        """Raise `BucketMissing`, naming it, if the bucket is not there."""
        try:
            await self._client.storage.get_bucket(self._bucket)
        except StorageApiError as error:
            if str(error.status) == "404":
                raise BucketMissing(
                    f"bucket {self._bucket} does not exist: create it or set STORAGE_BUCKET"
                ) from error
            raise

    async def upload(self, path: str, data: bytes) -> None:
        """Store `data` unchanged, over whatever an earlier attempt left there.

        Raises `ResultRefused` if the bucket will never take it.
        """
        mime = content_type(data)
        # Without a content type Storage keeps text/plain; without upsert an existing path can hang.
        options = {"content-type": mime or "application/octet-stream", "upsert": "true"}
        try:
            await self._client.storage.from_(self._bucket).upload(path, data, options)  # type: ignore[arg-type]
        except StorageApiError as error:
            if str(error.status) in _REFUSED_FOR_GOOD:
                raise ResultRefused(f"storage error {error.status} {error.code}") from error
            raise

    async def exists(self, path: str) -> bool:
        """Whether an earlier attempt has stored its result."""
        return await self._client.storage.from_(self._bucket).exists(path)

    async def sign(self, path: str) -> str:
        """A link to the object that works for the configured time, as browsers reach it."""
        signed = await self._client.storage.from_(self._bucket).create_signed_url(path, self._ttl_seconds)
        url = signed["signedURL"]
        if url is None:
            raise StorageApiError("Storage signed nothing", "no_signed_url", 502)
        return self._public_origin + url.removeprefix(self._origin)
