"""The studio: a page on which a person tries the whole backend. A development tool of the local stack.

`python -m wearon_local up` and `demo --keep` serve it beside everything else, docker-compose.yml runs this
module. It uses the stack as the Next.js app does, asks the database what became of a try-on, and is in no
service's image. The page itself is the folder `page` beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wearon_contracts.sizing import FitPreference, Gender, SizeChart
from wearon_local.app.next_app import (
    SAMPLE_GARMENT,
    SAMPLE_PERSON,
    SAMPLE_SHOP_GARMENT,
    SAMPLE_SHOP_PERSON,
    NextApp,
)
from wearon_local.paths import STUDIO_PAGE_DIR
from wearon_local.studio.queue import ContainerWorkers, Events, Queue, Workers
from wearon_local.studio.sizing import (
    OverlayRenderer,
    SizingOverlayRenderer,
    SizingService,
    without_feet,
)
from wearon_local.studio.try_ons import PROMPTS, TryOns

CREDITS: Final = 10
_MOST_BYTES: Final = 32 * 1024 * 1024
_MOST_AT_ONCE: Final = 20
_HEADERS: Final = {
    # Nothing from elsewhere, whatever is written into the page.
    b"content-security-policy": b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


_CHART_UNREADABLE: Final = "A line of the size chart cannot be read, such as: M chest 96-104 waist 81-89."


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture offered on the page; `height_cm` of the person in it."""

    name: str
    label: str
    kind: str
    path: Path
    height_cm: float | None = None
    cut: bool = False

    def data(self) -> bytes:
        data = self.path.read_bytes()
        return without_feet(data) if self.cut else data


SAMPLES: Final = (
    Sample("person-1", "Person one", "person", SAMPLE_PERSON, 161.3),
    Sample("person-2", "Person two", "person", SAMPLE_SHOP_PERSON, 173.3),
    Sample("person-cut", "Feet cut off", "unusable", SAMPLE_PERSON, 161.3, cut=True),
    Sample("t-shirt", "T-shirt", "garment", SAMPLE_GARMENT),
    Sample("dress", "Dress", "garment", SAMPLE_SHOP_GARMENT),
)


class Shopper(BaseModel):
    """The form of the sizing tab; the sizing API checks the values itself."""

    model_config = ConfigDict(extra="ignore")

    height_cm: float = Field(allow_inf_nan=False)
    weight_kg: float | None = Field(default=None, allow_inf_nan=False)
    gender: Gender | None = None
    fit_preference: FitPreference | None = None
    size_chart: SizeChart | None = None


class Refusal(Exception):
    """The page is told no, with a sentence for the person in front of it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Studio:
    """What the page asks for."""

    def __init__(self, try_ons: TryOns, sizing: SizingService, queue: Queue) -> None:
        self._try_ons = try_ons
        self._sizing = sizing
        self._queue = queue
        self._samples = {sample.name: sample for sample in SAMPLES}

    def routes(self) -> list[Route]:
        return [
            Route("/api/account", self.account),
            Route("/api/account/credits", self.add_credits, methods=["POST"]),
            Route("/api/samples", self.samples),
            Route("/api/samples/{name}", self.sample),
            Route("/api/try-ons", self.start_try_on, methods=["POST"]),
            Route("/api/try-ons/{id:uuid}", self.try_on),
            Route("/api/try-ons/{id:uuid}/cancel", self.cancel, methods=["POST"]),
            Route("/api/try-ons/{id:uuid}/picture", self.picture),
            Route("/api/check-photo", self.check_photo, methods=["POST"]),
            Route("/api/sizing", self.size, methods=["POST"]),
            Route("/api/queue", self.queue),
            Route("/api/queue/try-ons", self.fill, methods=["POST"]),
            Route("/api/queue/invalid", self.push_invalid, methods=["POST"]),
            Route("/api/workers/{name}/kill", self.kill, methods=["POST"]),
        ]

    def account(self, _: Request) -> Response:
        return JSONResponse({"balance": self._try_ons.balance})

    def add_credits(self, _: Request) -> Response:
        self._try_ons.add_credits(CREDITS)
        return JSONResponse({"balance": self._try_ons.balance})

    def samples(self, _: Request) -> Response:
        keys = ("name", "label", "kind", "height_cm")
        return JSONResponse([{key: getattr(sample, key) for key in keys} for sample in SAMPLES])

    def sample(self, request: Request) -> Response:
        found = self._samples.get(request.path_params["name"])
        if found is None:
            raise Refusal(404, "There is no such sample.")
        return Response(found.data(), media_type="image/jpeg")

    async def start_try_on(self, request: Request) -> Response:
        form = await _form(request)
        pictures = [await self._picture(form, name) for name in ("person", "garment")]
        behaviour = str(form.get("behaviour") or "normal")
        if behaviour not in PROMPTS:
            raise Refusal(422, "The stand-in knows no such behaviour.")
        session_id = await asyncio.to_thread(self._start, pictures, behaviour)
        return JSONResponse(await asyncio.to_thread(self._try_ons.view, session_id), 201)

    def try_on(self, request: Request) -> Response:
        try:
            return JSONResponse(self._try_ons.view(request.path_params["id"]))
        except KeyError:
            raise Refusal(404, "This try-on was not started here.") from None

    def cancel(self, request: Request) -> Response:
        session_id: UUID = request.path_params["id"]
        try:
            in_time = self._try_ons.cancel(session_id)
        except KeyError:
            raise Refusal(404, "This try-on was not started here.") from None
        if not in_time:
            raise Refusal(409, "It is being made already and can no longer be cancelled.")
        return JSONResponse(self._try_ons.view(session_id))

    def picture(self, request: Request) -> Response:
        session_id: UUID = request.path_params["id"]
        try:
            data = self._try_ons.picture(session_id)
        except KeyError:
            data = None
        if data is None:
            raise Refusal(404, "There is no such picture.")
        return Response(data, media_type="image/jpeg")

    async def size(self, request: Request) -> Response:
        form = await _form(request)
        data, content_type = await self._picture(form, "photo")
        given: dict[str, Any] = {
            key: value for key, value in form.items() if isinstance(value, str) and value
        }
        try:
            if "size_chart" in given:
                given["size_chart"] = json.loads(given["size_chart"])
            shopper = Shopper.model_validate(given).model_dump(mode="json", exclude_none=True)
        except ValidationError as error:
            about_chart = any(item["loc"][:1] == ("size_chart",) for item in error.errors())
            sentence = _CHART_UNREADABLE if about_chart else "Please give the height in centimetres."
            raise Refusal(422, sentence) from None
        except ValueError:
            raise Refusal(422, _CHART_UNREADABLE) from None

        side = await self._picture(form, "side") if form.get("side") else None

        def work() -> dict[str, Any]:
            if side is not None:
                shopper["side_image_url"] = self._try_ons.upload(*side)
            return self._sizing.size(data, self._try_ons.upload(data, content_type), shopper)

        return JSONResponse(await asyncio.to_thread(work))

    async def check_photo(self, request: Request) -> Response:
        """Whether the person's photo will do for a try-on, before a credit is taken."""
        data, content_type = await self._picture(await _form(request), "person")
        url = await asyncio.to_thread(self._try_ons.upload, data, content_type)
        return JSONResponse(await asyncio.to_thread(self._sizing.check, url))

    def queue(self, _: Request) -> Response:
        return JSONResponse(self._queue.view())

    async def fill(self, request: Request) -> Response:
        form = await _form(request)
        count = str(form.get("count") or "")
        if not count.isdecimal() or not 1 <= int(count) <= _MOST_AT_ONCE:
            raise Refusal(422, f"Between 1 and {_MOST_AT_ONCE} at once.")
        pictures = [(self._samples[name].data(), "image/jpeg") for name in ("person-1", "t-shirt")]

        def work() -> None:
            self._try_ons.add_credits(int(count))
            for _ in range(int(count)):
                self._start(pictures, "slow")

        await asyncio.to_thread(work)
        self._queue.events.add(f"{count} try-ons of 8 seconds or more were sent.")
        return JSONResponse(self._queue.events.all())

    def push_invalid(self, _: Request) -> Response:
        self._try_ons.push_invalid()
        self._queue.events.add("A task that nobody can read was sent.")
        return JSONResponse(self._queue.events.all())

    def kill(self, request: Request) -> Response:
        try:
            self._queue.workers.kill(request.path_params["name"])
        except KeyError:
            raise Refusal(404, "No such worker runs here any more.") from None
        return JSONResponse(self._queue.events.all())

    def close(self) -> None:
        self._sizing.close()
        self._queue.close()

    def _start(self, pictures: list[tuple[bytes, str]], behaviour: str) -> UUID:
        try:
            return self._try_ons.start(pictures, behaviour)
        except ValueError:
            raise Refusal(402, "No credit is left. Add some first.") from None

    async def _picture(self, form: FormData, name: str) -> tuple[bytes, str]:
        given = form.get(name)
        if isinstance(given, UploadFile):
            return await given.read(), given.content_type or "application/octet-stream"
        sample = self._samples.get(str(form.get(f"{name}_sample") or ""))
        if sample is None:
            raise Refusal(422, f"Please choose a picture for the {name}.")
        return sample.data(), "image/jpeg"


class OwnPageOnly:
    """Refuses requests that another site's page makes from this browser, and adds the page's headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and origin != b"http://" + headers.get(b"host", b""):
            await Response("only from the studio's own page\n", 403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS.items()]
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _form(request: Request) -> FormData:
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > _MOST_BYTES:
        raise Refusal(413, "The pictures are too large for this page.")
    return await request.form()


def _refuse(_: Request, refusal: Exception) -> Response:
    if not isinstance(refusal, Refusal):
        raise refusal
    return JSONResponse({"sentence": refusal.sentence}, refusal.status)


def build_app(studio: Studio) -> Starlette:
    """The page and what it asks for, for browsers on this machine only."""
    return Starlette(
        routes=[*studio.routes(), Mount("/", StaticFiles(directory=STUDIO_PAGE_DIR, html=True))],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
            Middleware(OwnPageOnly),
        ],
        exception_handlers={Refusal: _refuse},
    )


@contextmanager
def serving(studio: Studio, port: int) -> Iterator[str]:
    """Serve from a thread of this process while the block runs; gives the page's address."""
    config = uvicorn.Config(
        build_app(studio), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="studio", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(5)
        studio.close()


def open_studio(
    app: NextApp,
    *,
    sizing_url: str | None,
    renderer: OverlayRenderer | None,
    workers: Workers,
    events: Events,
) -> Studio:
    """The studio of one stack, with a user of its own."""
    queue = Queue(app, app.redis_url, workers, events)
    return Studio(TryOns(app, credits=CREDITS), SizingService(sizing_url, renderer), queue)


def main() -> None:
    """Serve for docker-compose.yml until told to stop.

    DATABASE_URL, REDIS_URL, SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY, SUPABASE_JWT_SECRET, SIZING_URL,
    CONSUMER_URL, GENERATOR_URL; MEDIAPIPE_MODEL_PATH where wearon_sizing is installed too.
    """
    parser = argparse.ArgumentParser(prog="python -m wearon_local.studio", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8300)
    arguments = parser.parse_args()
    env = os.environ
    app = NextApp.from_environment(env)
    model = env.get("MEDIAPIPE_MODEL_PATH")
    studio = open_studio(
        app,
        sizing_url=env["SIZING_URL"],
        renderer=SizingOverlayRenderer(Path(model)) if model else None,
        workers=ContainerWorkers({"consumer": env["CONSUMER_URL"], "generator": env["GENERATOR_URL"]}),
        events=Events(),
    )
    uvicorn.run(
        build_app(studio),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
