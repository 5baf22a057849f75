"""Buckets and objects as files, so that what was stored survives a kill of the process that stores it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What is known about an object without its bytes; `writes` counts how often it was stored."""

    id: str
    bucket: str
    name: str
    content_type: str
    cache_control: str
    size: int
    sha256: str
    created_at: str
    updated_at: str
    writes: int


@dataclass(frozen=True, slots=True)
class Bucket:
    id: str
    name: str
    public: bool
    created_at: str


class ObjectStore:
    """One file per object: a line of JSON that describes it, then its bytes; replaced in one step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buckets: dict[str, Bucket] = {}
        self._objects: dict[tuple[str, str], StoredObject] = {}
        for description in sorted(directory.glob("*/bucket.json")):
            bucket = Bucket(**json.loads(description.read_text()))
            self._buckets[bucket.id] = bucket
        for file in sorted(directory.glob("*/*.object")):
            with file.open("rb") as stored:
                known = StoredObject(**json.loads(stored.readline()))
            self._objects[known.bucket, known.name] = known

    def create_bucket(self, name: str, *, public: bool = False) -> bool:
        """False if there is one of that name already."""
        if name in self._buckets:
            return False
        bucket = Bucket(id=name, name=name, public=public, created_at=_now())
        (self._directory / name).mkdir(parents=True, exist_ok=True)
        _write(self._directory / name / "bucket.json", json.dumps(asdict(bucket)).encode())
        self._buckets[name] = bucket
        return True

    def delete_bucket(self, name: str) -> None:
        """The bucket must be known and empty."""
        (self._directory / name / "bucket.json").unlink()
        del self._buckets[name]

    def bucket(self, name: str) -> Bucket | None:
        return self._buckets.get(name)

    def buckets(self) -> list[Bucket]:
        return list(self._buckets.values())

    def put(
        self, bucket: str, name: str, data: bytes, *, content_type: str, cache_control: str
    ) -> StoredObject:
        """Store or replace an object."""
        now = _now()
        new = StoredObject(
            id=str(uuid4()),
            bucket=bucket,
            name=name,
            content_type=content_type,
            cache_control=cache_control,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            created_at=now,
            updated_at=now,
            writes=1,
        )
        old = self._objects.get((bucket, name))
        if old is not None:
            new = replace(new, id=old.id, created_at=old.created_at, writes=old.writes + 1)
        _write(self._file(bucket, name), json.dumps(asdict(new)).encode() + b"\n" + data)
        self._objects[bucket, name] = new
        return new

    def get(self, bucket: str, name: str) -> StoredObject | None:
        return self._objects.get((bucket, name))

    def read(self, bucket: str, name: str) -> bytes:
        """The bytes of a known object."""
        with self._file(bucket, name).open("rb") as stored:
            stored.readline()
            return stored.read()

    def delete(self, bucket: str, name: str) -> StoredObject | None:
        """What was deleted, None if there was nothing."""
        known = self._objects.pop((bucket, name), None)
        if known is not None:
            self._file(bucket, name).unlink()
        return known

    def objects(self, bucket: str | None = None) -> list[StoredObject]:
        """In order of name."""
        known = [o for o in self._objects.values() if bucket in (None, o.bucket)]
        return sorted(known, key=lambda o: (o.bucket, o.name))

    def _file(self, bucket: str, name: str) -> Path:
        return self._directory / bucket / f"{hashlib.sha256(name.encode()).hexdigest()}.object"


def _write(file: Path, data: bytes) -> None:
    unfinished = file.with_name(f"{uuid4()}.part")
    unfinished.write_bytes(data)
    unfinished.replace(file)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
