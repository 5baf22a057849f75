"""Where finished pictures are kept."""

from __future__ import annotations

from typing import Any, Final, Protocol
from urllib.parse import unquote

from storage3.exceptions import StorageApiError
from supabase import AsyncClient

from wearon_generator.supabase_client import Once, RetryPolicy, SupabaseUnavailable, ask

_REFUSED_FOR_GOOD: Final = ("413", "415")
"""Too large for the bucket, or of a type that it does not take: sending it again changes nothing."""
_MISSING: Final = ("not_found", "InternalError")
_IN_ONE_REMOVAL: Final = 1000
"""Objects; Storage refuses more."""
_CONTENT_TYPES: Final = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


class BucketMissing(SupabaseUnavailable):
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


class Bucket(Protocol):
    """One bucket. Each method makes as few calls as it can, and raises `SupabaseUnavailable` if it should be
    repeated."""

    async def check(self) -> None:
        """Raise `BucketMissing`, naming it, if the bucket is not there."""
        ...

    async def upload(self, path: str, data: bytes, mime: str) -> None:
        """Store `data`, over what is there; raises `ResultRefused` if the bucket will never take it."""
        ...

    async def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        ...

    async def sign(self, path: str, ttl_seconds: int) -> str:
        """A link to the object that works for so long."""
        ...

    async def remove(self, paths: list[str]) -> None:
        """Delete these objects; one that is not there is no error."""
        ...


class SupabaseBucket:
    """A bucket of Supabase Storage."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self._name = name

    async def check(self) -> None:
        """See `Bucket`."""
        try:
            await ask(self._client.storage.get_bucket, self._name)
        except SupabaseUnavailable as error:
            if _status(error) == "404":
                raise BucketMissing(
                    f"bucket {self._name} does not exist: create it or set STORAGE_BUCKET"
                ) from error
            raise

    async def upload(self, path: str, data: bytes, mime: str) -> None:
        """See `Bucket`."""
        # Without a content type Storage keeps text/plain; without upsert an existing path can hang.
        options: Any = {"content-type": mime, "upsert": "true"}
        try:
            stored = await ask(self._objects.upload, path, data, options)
        except SupabaseUnavailable as error:
            if _status(error) in _REFUSED_FOR_GOOD:
                raise ResultRefused(str(error)) from error
            raise
        # The client takes over whatever the answer says.
        if stored.full_path != f"{self._name}/{path}":
            raise SupabaseUnavailable("the upload's answer does not name the object")

    async def exists(self, path: str) -> bool:
        """See `Bucket`."""
        try:
            # `exists` of the client takes any answer with status 200 for a yes.
            info: Any = await ask(self._objects.info, path)
        except SupabaseUnavailable as error:
            cause = error.__cause__
            # As in the client's `exists`: another 404 tells of a missing bucket or a refused key.
            if isinstance(cause, StorageApiError) and cause.code in _MISSING and str(cause.status) == "404":
                return False
            raise
        if not isinstance(info, dict) or not info.keys() & {"id", "name"}:
            raise SupabaseUnavailable("the answer does not describe the object")
        return True

    async def sign(self, path: str, ttl_seconds: int) -> str:
        """See `Bucket`."""
        signed: Any = await ask(self._objects.create_signed_url, path, ttl_seconds)
        url = signed["signedURL"]
        # The client makes a link of whatever the answer says.
        if f"/object/sign/{self._name}/{path}?" not in unquote(url):
            raise SupabaseUnavailable("the answer holds no link to the object")
        return str(url)

    async def remove(self, paths: list[str]) -> None:
        """See `Bucket`."""
        for start in range(0, len(paths), _IN_ONE_REMOVAL):
            removed: Any = await ask(self._objects.remove, paths[start : start + _IN_ONE_REMOVAL])
            if not isinstance(removed, list):
                raise SupabaseUnavailable("the answer does not say what was removed")

    @property
    def _objects(self) -> Any:
        return self._client.storage.from_(self._name)


def _status(error: SupabaseUnavailable) -> str | None:
    cause = error.__cause__
    return str(cause.status) if isinstance(cause, StorageApiError) else None


class ResultStore:
    """Results in one bucket; repeats calls as `retry` says."""

    def __init__(
        self,
        bucket: Bucket,
        ttl_seconds: int,
        *,
        origin: str,
        public_origin: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """`origin`: of Supabase for the generator; `public_origin`: for browsers, if it differs."""
        self._bucket = bucket
        self._ttl_seconds = ttl_seconds
        self._origin = origin
        self._public_origin = public_origin or origin
        self._retry = retry or Once()

    def with_retry(self, retry: RetryPolicy) -> ResultStore:
        """The same store with another policy."""
        return ResultStore(
            self._bucket,
            self._ttl_seconds,
            origin=self._origin,
            public_origin=self._public_origin,
            retry=retry,
        )

    async def check_bucket(self) -> None:
        """Raise `BucketMissing`, naming it, if the bucket is not there."""
        await self._retry.call("check_bucket", self._bucket.check)

    async def upload(self, path: str, data: bytes) -> None:
        """Store `data` unchanged, over whatever an earlier attempt left there.

        Raises `ResultRefused` if the bucket will never take it.
        """
        mime = content_type(data) or "application/octet-stream"
        await self._retry.call("upload", self._bucket.upload, path, data, mime)

    async def exists(self, path: str) -> bool:
        """Whether an earlier attempt has stored its result."""
        return await self._retry.call("look_for_result", self._bucket.exists, path)

    async def sign(self, path: str) -> str:
        """A link to the object that works for the configured time, as browsers reach it."""
        url = await self._retry.call("sign", self._bucket.sign, path, self._ttl_seconds)
        return self._public_origin + url.removeprefix(self._origin)

    async def link(self, path: str) -> str | None:
        """As `sign`; None if there is no such object."""
        try:
            return await self.sign(path)
        except SupabaseUnavailable:
            if await self.exists(path):
                raise
            return None

    async def remove(self, paths: list[str]) -> None:
        """Delete these objects; one that is not there is no error."""
        await self._retry.call("remove", self._bucket.remove, paths)
