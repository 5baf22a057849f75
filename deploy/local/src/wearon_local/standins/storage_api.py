"""The part of Supabase Storage's HTTP API that the app and the services use, over an `ObjectStore`.

Status codes and bodies are those of supabase/storage: every refusal but an internal error is HTTP 400 with
the real status as a string inside. Only the service role may write and read; others get what row level
security without a policy would give them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Annotated, Any, Final

import jwt
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wearon_local.standins import tokens
from wearon_local.standins.object_store import Bucket, ObjectStore, StoredObject

MAX_OBJECT_BYTES: Final = 50 * 1024 * 1024
"""Supabase's default limit for one object."""

_VALID_KEY: Final = re.compile(r"[\w/!\-.*'() &$@=;:+,?]+", re.ASCII)
_BUCKET_NAME: Final = re.compile(r"[\w!\-.*'() &$@=;:+,?]+", re.ASCII)


class StorageRefusal(Exception):
    """A request that Storage turns down: `status` is the inner status code."""

    def __init__(self, status: int, code: str, message: str, *, error: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"statusCode": str(status), "error": error or code, "message": message, "code": code}


def refusal_response(_: Request, refusal: Exception) -> Response:
    """The answer for a `StorageRefusal`."""
    assert isinstance(refusal, StorageRefusal)
    return JSONResponse(refusal.body, 500 if refusal.status == 500 else 400)


class _SignRequest(BaseModel):
    expires_in: int = Field(alias="expiresIn", ge=1)


class _SignManyRequest(_SignRequest):
    paths: list[str] = Field(min_length=1)


class _ListRequest(BaseModel):
    prefix: str
    limit: int = 100
    offset: int = 0
    search: str = ""


class _RemoveRequest(BaseModel):
    prefixes: list[Annotated[str, Field(pattern=r"^[^\x00]*$")]] = Field(min_length=1, max_length=1000)


class _BucketRequest(BaseModel):
    name: str
    id: str | None = None
    public: bool = False


@dataclass(frozen=True, slots=True)
class _Upload:
    data: bytes
    content_type: str
    cache_control: str


class StorageApi:
    """Handlers and routes below /storage/v1."""

    def __init__(self, store: ObjectStore, jwt_secret: str) -> None:
        self._store = store
        self._secret = jwt_secret

    def routes(self) -> list[Route]:
        """Most specific first; `{path:path}` is the object's name with its slashes."""
        one = "/object/{bucket}/{path:path}"
        return [
            Route("/bucket", self._buckets, methods=["GET", "POST"]),
            Route("/bucket/{bucket}", self._bucket, methods=["GET", "DELETE"]),
            Route("/bucket/{bucket}/empty", self._empty_bucket, methods=["POST"]),
            Route("/object/sign/{bucket}/{path:path}", self._sign, methods=["POST"]),
            Route("/object/sign/{bucket}", self._sign_many, methods=["POST"]),
            Route("/object/sign/{bucket}/{path:path}", self._signed_download, methods=["GET"]),
            Route("/object/list/{bucket}", self._list, methods=["POST"]),
            Route("/object/info/authenticated/{bucket}/{path:path}", self._info, methods=["GET"]),
            Route("/object/info/{bucket}/{path:path}", self._info, methods=["GET"]),
            Route("/object/public/{bucket}/{path:path}", self._public_download, methods=["GET"]),
            Route("/object/authenticated/{bucket}/{path:path}", self._download, methods=["GET"]),
            Route(one, self._upload, methods=["POST", "PUT"]),
            Route(one, self._download, methods=["GET"]),
            Route(one, self._delete, methods=["DELETE"]),
            Route("/object/{bucket}", self._remove, methods=["DELETE"]),
        ]

    # Buckets

    async def _buckets(self, request: Request) -> Response:
        self._need_service_role(request)
        if request.method == "GET":
            return JSONResponse([_bucket_json(b) for b in self._store.buckets()])
        asked = await _body(request, _BucketRequest)
        name = asked.id or asked.name
        if _BUCKET_NAME.fullmatch(name) is None or name in {".", ".."}:
            raise StorageRefusal(400, "InvalidBucketName", "Bucket name invalid", error="Invalid Input")
        if not self._store.create_bucket(name, public=asked.public):
            raise StorageRefusal(409, "BucketAlreadyExists", "The resource already exists", error="Duplicate")
        return JSONResponse({"name": name})

    async def _bucket(self, request: Request) -> Response:
        self._need_service_role(request)
        bucket = self._known_bucket(request)
        if request.method == "GET":
            return JSONResponse(_bucket_json(bucket))
        if self._store.objects(bucket.id):
            raise StorageRefusal(409, "ResourceNotEmpty", "The bucket you tried to delete is not empty")
        self._store.delete_bucket(bucket.id)
        return JSONResponse({"message": "Successfully deleted"})

    async def _empty_bucket(self, request: Request) -> Response:
        self._need_service_role(request)
        bucket = self._known_bucket(request)
        for stored in self._store.objects(bucket.id):
            self._store.delete(bucket.id, stored.name)
        return JSONResponse({"message": "Successfully emptied"})

    # Objects

    async def _upload(self, request: Request) -> Response:
        if self._role(request) != "service_role":
            raise StorageRefusal(
                403, "AccessDenied", "new row violates row-level security policy", error="Unauthorized"
            )
        bucket, path = self._known_bucket(request), _path(request)
        upload = await _read_upload(request)
        upsert = request.method == "PUT" or request.headers.get("x-upsert") == "true"
        if self._store.get(bucket.id, path) is not None and not upsert:
            raise StorageRefusal(409, "KeyAlreadyExists", "The resource already exists", error="Duplicate")
        if request.method == "PUT" and self._store.get(bucket.id, path) is None:
            raise _not_found()
        stored = self._store.put(
            bucket.id,
            path,
            upload.data,
            content_type=upload.content_type,
            cache_control=upload.cache_control,
        )
        return JSONResponse({"Key": f"{bucket.id}/{path}", "Id": stored.id})

    async def _download(self, request: Request) -> Response:
        return self._content(self._readable(request), request)

    async def _public_download(self, request: Request) -> Response:
        bucket = self._store.bucket(request.path_params["bucket"])
        if bucket is None or not bucket.public:
            raise _no_bucket()
        return self._content(self._known_object(request), request)

    async def _info(self, request: Request) -> Response:
        stored = self._readable(request)
        return JSONResponse(
            {
                "id": stored.id,
                "name": stored.name,
                "version": str(stored.writes),
                "bucket_id": stored.bucket,
                "size": stored.size,
                "content_type": stored.content_type,
                "cache_control": stored.cache_control,
                "etag": _etag(stored),
                "metadata": {},
                "last_modified": stored.updated_at,
                "created_at": stored.created_at,
            }
        )

    async def _delete(self, request: Request) -> Response:
        self._readable(request)
        self._store.delete(request.path_params["bucket"], _path(request))
        return JSONResponse({"message": "Successfully deleted"})

    async def _remove(self, request: Request) -> Response:
        self._need_service_role(request)
        bucket = self._known_bucket(request)
        asked = await _body(request, _RemoveRequest)
        gone = [self._store.delete(bucket.id, path) for path in asked.prefixes]
        return JSONResponse([_object_json(o) for o in gone if o is not None])

    async def _list(self, request: Request) -> Response:
        asked = await _body(request, _ListRequest)
        if self._role(request) != "service_role":
            return JSONResponse([])
        bucket = self._known_bucket(request)
        folder = asked.prefix.strip("/") + "/" if asked.prefix.strip("/") else ""
        entries: dict[str, dict[str, Any]] = {}
        for stored in self._store.objects(bucket.id):
            if not stored.name.startswith(folder):
                continue
            name, slash, _ = stored.name[len(folder) :].partition("/")
            if name.startswith(asked.search):
                entries.setdefault(
                    name, _folder_json(name) if slash else {**_object_json(stored), "name": name}
                )
        return JSONResponse(list(entries.values())[asked.offset : asked.offset + asked.limit])

    # Signed URLs

    async def _sign(self, request: Request) -> Response:
        stored = self._readable(request)
        asked = await _body(request, _SignRequest)
        return JSONResponse({"signedURL": self._signed_url(stored, asked.expires_in)})

    async def _sign_many(self, request: Request) -> Response:
        self._need_service_role(request)
        bucket = self._known_bucket(request)
        asked = await _body(request, _SignManyRequest)
        answers = []
        for path in asked.paths:
            stored = self._store.get(bucket.id, path)
            if stored is None:
                missing = "Either the object does not exist or you do not have access to it"
                answers.append({"error": missing, "path": path, "signedURL": None})
            else:
                url = self._signed_url(stored, asked.expires_in)
                answers.append({"error": None, "path": path, "signedURL": url})
        return JSONResponse(answers)

    async def _signed_download(self, request: Request) -> Response:
        token = request.query_params.get("token")
        if not token:
            raise StorageRefusal(400, "InvalidRequest", "querystring must have required property 'token'")
        try:
            claims = tokens.read(self._secret, token)
        except jwt.ExpiredSignatureError:
            raise StorageRefusal(400, "InvalidJWT", '"exp" claim timestamp check failed') from None
        except jwt.InvalidTokenError:
            raise StorageRefusal(400, "InvalidJWT", "signature verification failed") from None
        if claims.get("url") != f"{request.path_params['bucket']}/{_path(request)}":
            raise StorageRefusal(400, "InvalidSignature", "The url do not match the signature")
        stored = self._known_object(request)
        return self._content(stored, request, expires=claims["exp"])

    def _signed_url(self, stored: StoredObject, seconds: int) -> str:
        token = tokens.object_token(self._secret, stored.bucket, stored.name, seconds=seconds)
        return f"/object/sign/{stored.bucket}/{stored.name}?token={token}"

    # What the handlers share

    def _role(self, request: Request) -> str:
        # As Supabase's gateway does: the API key stands in for a missing Authorization header.
        header = request.headers.get("authorization") or f"Bearer {request.headers.get('apikey', '')}"
        token = header.removeprefix("Bearer ").strip()
        if not token:
            raise StorageRefusal(
                400, "InvalidRequest", "headers must have required property 'authorization'", error="Error"
            )
        try:
            return str(tokens.read(self._secret, token).get("role", "anon"))
        except jwt.ExpiredSignatureError:
            message = '"exp" claim timestamp check failed'
        except jwt.InvalidSignatureError:
            message = "signature verification failed"
        except jwt.InvalidTokenError:
            message = "Invalid Compact JWS"
        raise StorageRefusal(403, "AccessDenied", message, error="Unauthorized")

    def _need_service_role(self, request: Request) -> None:
        if self._role(request) != "service_role":
            raise StorageRefusal(
                403, "AccessDenied", "new row violates row-level security policy", error="Unauthorized"
            )

    def _readable(self, request: Request) -> StoredObject:
        if self._role(request) != "service_role":
            raise _not_found()
        return self._known_object(request)

    def _known_object(self, request: Request) -> StoredObject:
        bucket = self._known_bucket(request)
        stored = self._store.get(bucket.id, _path(request))
        if stored is None:
            raise _not_found()
        return stored

    def _known_bucket(self, request: Request) -> Bucket:
        bucket = self._store.bucket(request.path_params["bucket"])
        if bucket is None:
            raise _no_bucket()
        return bucket

    def _content(self, stored: StoredObject, request: Request, *, expires: int | None = None) -> Response:
        headers = {
            "cache-control": stored.cache_control,
            "etag": _etag(stored),
            "content-length": str(stored.size),
        }
        if expires is not None:
            headers["expires"] = formatdate(expires, usegmt=True)
        if "download" in request.query_params:
            name = request.query_params["download"] or stored.name.rsplit("/", 1)[-1]
            headers["content-disposition"] = f"attachment; filename={json.dumps(name)}"
        data = b"" if request.method == "HEAD" else self._store.read(stored.bucket, stored.name)
        response = Response(data, headers=headers)
        # Set afterwards: Starlette would append a character set to text types.
        response.headers["content-type"] = stored.content_type
        return response


async def _read_upload(request: Request) -> _Upload:
    """A form whose first file is the object, as supabase-py sends it, or the bare bytes."""
    sent_type = request.headers.get("content-type", "")
    if sent_type.startswith("multipart/form-data"):
        async with request.form() as form:
            file = next((v for _, v in form.multi_items() if isinstance(v, UploadFile)), None)
            if file is None:
                raise StorageRefusal(400, "InvalidRequest", "No content provided")
            upload = _Upload(
                data=await file.read(),
                content_type=file.content_type or "text/plain;charset=UTF-8",
                cache_control=_cache_control(str(form.get("cacheControl", ""))),
            )
    else:
        upload = _Upload(
            data=await request.body(),
            content_type=sent_type or "text/plain;charset=UTF-8",
            cache_control=request.headers.get("cache-control", "no-cache"),
        )
    if len(upload.data) > MAX_OBJECT_BYTES:
        raise StorageRefusal(
            413,
            "EntityTooLarge",
            "The object exceeded the maximum allowed size",
            error="Payload too large",
        )
    return upload


async def _body(request: Request, model: type[Any]) -> Any:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = "/".join(str(part) for part in wrong["loc"])
        raise StorageRefusal(400, "InvalidRequest", f"body/{where} {wrong['msg']}", error="Error") from None


def _path(request: Request) -> str:
    path = str(request.path_params["path"])
    if _VALID_KEY.fullmatch(path) is None or ".." in path.split("/"):
        raise StorageRefusal(400, "InvalidKey", f"Invalid key: {path}")
    return path


def _not_found() -> StorageRefusal:
    return StorageRefusal(404, "NoSuchKey", "Object not found", error="not_found")


def _no_bucket() -> StorageRefusal:
    return StorageRefusal(404, "NoSuchBucket", "Bucket not found", error="Bucket not found")


def _cache_control(max_age: str) -> str:
    return f"max-age={max_age}" if max_age.isdecimal() else max_age or "no-cache"


def _etag(stored: StoredObject) -> str:
    return f'"{hashlib.md5(stored.sha256.encode()).hexdigest()}"'


def _bucket_json(bucket: Bucket) -> dict[str, Any]:
    return {
        "id": bucket.id,
        "name": bucket.name,
        "owner": "",
        "public": bucket.public,
        "type": "STANDARD",
        "file_size_limit": None,
        "allowed_mime_types": None,
        "created_at": bucket.created_at,
        "updated_at": bucket.created_at,
    }


def _object_json(stored: StoredObject) -> dict[str, Any]:
    return {
        "name": stored.name,
        "bucket_id": stored.bucket,
        "id": stored.id,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
        "last_accessed_at": stored.updated_at,
        "metadata": {
            "eTag": _etag(stored),
            "size": stored.size,
            "mimetype": stored.content_type,
            "cacheControl": stored.cache_control,
            "httpStatusCode": HTTPStatus.OK,
        },
    }


def _folder_json(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "id": None,
        "created_at": None,
        "updated_at": None,
        "last_accessed_at": None,
        "metadata": None,
    }
