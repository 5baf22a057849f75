"""Stands where Supabase's gateway stands: REST passed through to PostgREST, Storage answered here.

`python -m wearon_local.standins.gateway` serves /rest/v1/*, /storage/v1/*, the sample pictures
under /samples/ (they play a shop's public image host) and the control endpoints of
`wearon_local.standins.faults`; and /realtime/v1/websocket. Like Supabase it answers to pages
of any origin (CORS). Plus:

    GET /_control/objects      every stored object with size, sha256 and how often it was written
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import jwt
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from wearon_local.paths import SAMPLES_DIR
from wearon_local.standins import tokens
from wearon_local.standins.faults import FaultInjection
from wearon_local.standins.http_server import serve
from wearon_local.standins.object_store import ObjectStore
from wearon_local.standins.realtime import Realtime
from wearon_local.standins.storage_api import StorageApi, StorageRefusal, refusal_response

_HOP_BY_HOP: Final = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailers",
    "transfer-encoding",
    "upgrade",
}
_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the process is told; the keys are made from the secret unless given."""

    postgrest_url: str
    jwt_secret: str
    storage_dir: Path
    buckets: tuple[str, ...]
    anon_key: str
    service_role_key: str
    database_url: str


class RestPassthrough:
    """/rest/v1/*: checks the API key as Supabase's gateway does and hands the request on unchanged."""

    def __init__(self, settings: GatewaySettings, client: httpx.AsyncClient) -> None:
        self._keys = {settings.anon_key, settings.service_role_key}
        self._client = client

    async def __call__(self, request: Request) -> Response:
        key = request.headers.get("apikey") or request.query_params.get("apikey")
        if not key:
            return JSONResponse(
                {
                    "message": "No API key found in request",
                    "hint": "No `apikey` request header or url param was found.",
                },
                401,
            )
        if key not in self._keys:
            return JSONResponse(
                {
                    "message": "Invalid API key",
                    "hint": "Double check your Supabase `anon` or `service_role` API key.",
                },
                401,
            )
        not_passed = _HOP_BY_HOP | {"host", "content-length"}
        headers = [(k, v) for k, v in request.headers.items() if k not in not_passed]
        if "authorization" not in request.headers:
            headers.append(("authorization", f"Bearer {key}"))
        query = "&".join(p for p in request.url.query.split("&") if p and not p.startswith("apikey="))
        url = httpx.URL("/" + request.path_params["path"], query=query.encode())
        body = await request.body()
        upstream = self._client.build_request(request.method, url, headers=headers, content=body or None)
        try:
            answer = await self._client.send(upstream, stream=True)
            content = b"".join([part async for part in answer.aiter_raw()])
        except httpx.HTTPError:
            return JSONResponse({"message": "An invalid response was received from the upstream server"}, 502)
        response = Response(content, answer.status_code)
        response.raw_headers += [
            (k.lower(), v) for k, v in answer.headers.raw if k.decode().lower() not in not_passed
        ]
        return response


class SignedInUser:
    """/auth/v1/user: whom an access token belongs to, as `auth.getUser` asks; people sign in nowhere here."""

    def __init__(self, jwt_secret: str) -> None:
        self._jwt_secret = jwt_secret

    async def __call__(self, request: Request) -> Response:
        _, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            claims = tokens.read(self._jwt_secret, token)
        except jwt.InvalidTokenError:
            claims = {}
        if "sub" not in claims:
            refusal = {"code": 403, "error_code": "bad_jwt", "msg": "invalid JWT: unable to parse or verify"}
            return JSONResponse(refusal, 403)
        return JSONResponse(
            {
                "id": claims["sub"],
                "aud": claims["aud"],
                "role": claims["role"],
                "app_metadata": {},
                "user_metadata": {},
                "identities": [],
                "created_at": datetime.fromtimestamp(claims["iat"], UTC).isoformat(),
            }
        )


def build_app(settings: GatewaySettings) -> ASGIApp:
    """The whole gateway; the buckets named in the settings exist from the start."""
    store = ObjectStore(settings.storage_dir)
    for name in settings.buckets:
        store.create_bucket(name)
    client = httpx.AsyncClient(
        base_url=settings.postgrest_url,
        timeout=60,
        limits=httpx.Limits(max_connections=200, max_keepalive_connections=50),
        trust_env=False,
    )

    realtime = Realtime(settings.database_url, {settings.anon_key, settings.service_role_key}, client)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client, realtime.listening():
            yield

    async def objects(_: Request) -> Response:
        return JSONResponse([asdict(o) for o in store.objects()])

    app = Starlette(
        lifespan=lifespan,
        exception_handlers={StorageRefusal: refusal_response},
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=_METHODS,
                allow_headers=["*"],
                expose_headers=["content-range"],
            )
        ],
    )
    gateway = FaultInjection(app)
    app.router.routes += [
        *gateway.routes(),
        Route("/_control/objects", objects),
        Route("/rest/v1/{path:path}", RestPassthrough(settings, client).__call__, methods=_METHODS),
        *realtime.routes(),
        Route("/auth/v1/user", SignedInUser(settings.jwt_secret).__call__),
        Mount("/storage/v1", routes=StorageApi(store, settings.jwt_secret).routes()),
        Mount("/samples", StaticFiles(directory=SAMPLES_DIR)),
    ]
    return gateway


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m wearon_local.standins.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--postgrest-url", required=True)
    parser.add_argument("--storage-dir", type=Path, required=True)
    parser.add_argument("--bucket", action="append", default=[], help="a bucket that exists from the start")
    arguments = parser.parse_args()
    secret = os.environ["SUPABASE_JWT_SECRET"]
    settings = GatewaySettings(
        postgrest_url=arguments.postgrest_url,
        jwt_secret=secret,
        storage_dir=arguments.storage_dir,
        buckets=tuple(arguments.bucket or ["images"]),
        anon_key=os.environ.get("SUPABASE_ANON_KEY") or tokens.api_key(secret, "anon"),
        service_role_key=os.environ.get("SUPABASE_SERVICE_ROLE_KEY")
        or tokens.api_key(secret, "service_role"),
        database_url=os.environ["DATABASE_URL"],
    )
    serve(build_app(settings), arguments.host, arguments.port)


if __name__ == "__main__":
    main()
