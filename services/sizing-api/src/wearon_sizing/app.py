"""The HTTP service: routes, the life of a request, and the one place where its parts are put together."""

from __future__ import annotations

import asyncio
import contextvars
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any, Final, TypeVar

import cv2
import numpy as np
import structlog
from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from wearon_contracts.errors import ErrorCode, sentence
from wearon_contracts.sizing import (
    CheckPhotoRequest,
    CheckPhotoResponse,
    EstimateBodyRequest,
    EstimateBodyResponse,
    EstimateWithoutPhotoRequest,
    PhotoPurpose,
)
from wearon_service_kit.health import CheckResult, Readiness, ReadyGauge
from wearon_service_kit.images.errors import ImageError
from wearon_service_kit.images.fetch import FetchedImage, ImageFetcher
from wearon_service_kit.tracing import NO_TRACER, Tracer
from wearon_sizing.answers import (
    CHECK_PHOTO_CODES,
    ESTIMATE_BODY_CODES,
    WITHOUT_PHOTO_CODES,
    answer,
    checked,
    documented_errors,
    problem,
    retry_after,
    status_of,
)
from wearon_sizing.measuring import Method, load_method
from wearon_sizing.metrics import Metrics
from wearon_sizing.middleware import QUIET, ClientGoneError, RequestMiddleware, request_id_of
from wearon_sizing.photo_check import look, refuse_try_on
from wearon_sizing.pose import Landmarker, ModelMissingError
from wearon_sizing.redis_watch import RedisWatch
from wearon_sizing.settings import SizingSettings
from wearon_sizing.silhouette import Person
from wearon_sizing.size_charts import Chart, ChartError, choose, read_chart
from wearon_sizing.sizing import (
    Estimate,
    PhotoRefusedError,
    Shopper,
    assess,
    find_person,
    find_side_person,
    open_photo,
    refuse_photo,
)
from wearon_sizing.without_photo import without_photo
from wearon_sizing.workers import BoundedThreads, QueueFullError, Workers

# The client gives up after 5 s; what it has not been told by then is lost.
BUDGET_SECONDS: Final = 4.0
# Kept back from the download for waiting and measuring.
AFTER_DOWNLOAD_SECONDS: Final = 0.5
# So long a side photo is waited for, counted from the request, unless the front photo takes longer. Waiting
# for all of the budget would leave a busy service no time for the front photo, which tells enough alone.
SIDE_SECONDS: Final = 2.0
# Downloads at once, most of which wait for somebody's web server, and requests without a photo at once. A
# download may take 10 MB.
MOST_AT_ONCE: Final = 32
# So long a refusal waits for what can be said without the photo; then it goes alone.
FALLBACK_SECONDS: Final = 0.5
# Faults named in the answer to a request that is not valid; one body can have thousands.
MOST_COMPLAINTS: Final = 10
LONGEST_NAME: Final = 40  # of a field that a complaint names
NO_SUCH_PATH: Final = "There is nothing at this path; /docs names all that there are."
OTHER_METHOD: Final = "This path is asked in another way; /docs says with which method."
# pydantic's names for faults that are most often a number in another unit, and the units by a field's ending.
OUT_OF_RANGE: Final = ("greater_than_equal", "less_than_equal")
UNITS: Final = {"_cm": "centimetres", "_kg": "kilograms"}
PATHS: Final = frozenset(
    {
        "/estimate-body",
        "/estimate-without-photo",
        "/check-photo",
        "/health",
        "/live",
        "/ready",
        "/metrics",
        "/docs",
        "/openapi.json",
    }
)

KEY_HEADER: Final = APIKeyHeader(name="X-API-Key", auto_error=False)
BEARER: Final = HTTPBearer(auto_error=False)

Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class RefusedError(Exception):
    """The answer is an error with this code.

    `reason` is for the log, `detail` replaces the code's sentence, `fallback` is what can be said without it.
    """

    def __init__(self, code: ErrorCode, reason: str = "", detail: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.fallback: EstimateBodyResponse | None = None


class Health(BaseModel):
    """`ok` when the model is loaded and Redis answers, else `degraded`."""

    status: str
    model_loaded: bool
    redis_connected: bool
    method_version: str
    queue_depth: int


class Sizer:
    """From a request to an answer. Built once per process by `create_app`.

    `calculations`: where estimates without a photo are made.
    """

    def __init__(
        self,
        fetcher: ImageFetcher,
        workers: Workers,
        calculations: BoundedThreads,
        method: Method,
        metrics: Metrics,
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._budget = budget_seconds
        self._fetcher = fetcher
        self._workers = workers
        self._calculations = calculations
        self._method = method
        self._metrics = metrics
        self._downloads = 0

    async def estimate_without_photo(self, body: EstimateWithoutPhotoRequest) -> EstimateBodyResponse:
        """Raises RefusedError for a size chart that cannot be used, or when many ask at once."""
        chart = _chart_of(body)
        try:
            return await self._calculate_without_photo(body, chart)
        except QueueFullError as error:
            raise RefusedError(ErrorCode.OVERLOADED) from error

    async def estimate(self, body: EstimateBodyRequest) -> EstimateBodyResponse:
        """Raises RefusedError for everything that is no measurement; takes at most its budget, and where it
        refuses, `FALLBACK_SECONDS` more."""
        chart = _chart_of(body)
        try:
            return await self._in_time(lambda deadline: self._estimate(body, chart, deadline))
        except RefusedError as refusal:
            # A service with too much to do already does not calculate for those it sends away.
            if refusal.code is not ErrorCode.OVERLOADED:
                with suppress(QueueFullError, TimeoutError):
                    async with asyncio.timeout(FALLBACK_SECONDS):
                        refusal.fallback = await self._calculate_without_photo(body, chart)
            raise

    async def check(self, body: CheckPhotoRequest) -> CheckPhotoResponse:
        """Raises RefusedError where there is no picture to look at; takes at most its budget."""
        return await self._in_time(lambda deadline: self._check(body, deadline))

    async def _in_time(self, work: Callable[[float], Awaitable[Result]]) -> Result:
        """`work` with its deadline (monotonic seconds). Raises RefusedError for whatever stops it."""
        if not self._workers.loaded:
            raise RefusedError(ErrorCode.MODEL_NOT_LOADED)
        # Asked before the download, so that a refusal costs nothing and comes at once.
        if self._workers.full:
            raise RefusedError(ErrorCode.OVERLOADED)
        try:
            async with asyncio.timeout(self._budget):
                return await work(time.monotonic() + self._budget)
        except TimeoutError as error:
            raise RefusedError(ErrorCode.BUDGET_EXCEEDED) from error
        except ImageError as error:
            raise RefusedError(error.code, error.detail) from error
        except PhotoRefusedError as error:
            raise RefusedError(error.code) from error
        except QueueFullError as error:
            raise RefusedError(ErrorCode.OVERLOADED) from error

    @contextmanager
    def _downloading(self, photos: int) -> Iterator[None]:
        """Room for so many downloads at once. Raises RefusedError where there is none."""
        if self._downloads + photos > MOST_AT_ONCE:
            raise RefusedError(ErrorCode.OVERLOADED)
        self._downloads += photos
        try:
            yield
        finally:
            self._downloads -= photos

    async def _estimate(
        self, body: EstimateBodyRequest, chart: Chart | None, deadline: float
    ) -> EstimateBodyResponse:
        shopper = _shopper_of(body)
        with self._downloading(1 if body.side_image_url is None else 2):
            front, side = await self._fetch_both(body)

        def work(landmarker: Landmarker) -> EstimateBodyResponse:
            picture = self._picture(front, deadline)
            with self._metrics.step("detect"):
                person = find_person(landmarker, picture)
            profile = self._side_person(landmarker, side, deadline)
            with self._metrics.step("measure"):
                assessment = assess(person, shopper, self._method, profile)
                return self._answer(assessment, chart, shopper)

        return await self._on_worker(work)

    async def _check(self, body: CheckPhotoRequest, deadline: float) -> CheckPhotoResponse:
        with self._downloading(1):
            image = await self._fetch(body.image_url)

        def work(landmarker: Landmarker) -> CheckPhotoResponse:
            picture = self._picture(image, deadline)
            with self._metrics.step("detect"):
                people = landmarker.detect(picture)
            with self._metrics.step("check"):
                if body.purpose is PhotoPurpose.TRY_ON:
                    refusal = refuse_try_on(picture, people)
                else:
                    refusal = refuse_photo(picture, people)
                return checked(look(picture, people), refusal)

        answer = await self._on_worker(work)
        _log.info("photo_checked", purpose=body.purpose.value, code=answer.code and answer.code.value)
        return answer

    async def _fetch(self, url: str) -> FetchedImage:
        with self._metrics.step("download"):
            return await self._fetcher.fetch(url)

    async def _fetch_both(
        self, body: EstimateBodyRequest
    ) -> tuple[FetchedImage, FetchedImage | ErrorCode | None]:
        """The front photo, and the side photo or why there is none."""
        fetching_side = asyncio.ensure_future(self._fetch_side(body.side_image_url))
        patience = time.monotonic() + SIDE_SECONDS
        try:
            front = await self._fetch(body.image_url)
            await asyncio.wait({fetching_side}, timeout=max(patience - time.monotonic(), 0))
            return front, fetching_side.result() if fetching_side.done() else ErrorCode.IMAGE_TIMEOUT
        finally:
            fetching_side.cancel()

    async def _fetch_side(self, url: str | None) -> FetchedImage | ErrorCode | None:
        """The side photo, or why there is none: without it the front photo still tells enough."""
        if url is None:
            return None
        try:
            return await self._fetch(url)
        except ImageError as error:
            return error.code

    def _picture(self, image: FetchedImage, deadline: float) -> NDArray[np.uint8]:
        """Rows, columns, RGB. Raises RefusedError instead where nobody waits for the photo any more."""
        if time.monotonic() > deadline:
            raise RefusedError(ErrorCode.BUDGET_EXCEEDED)
        with self._metrics.step("decode"):
            return open_photo(image.data)

    def _side_person(
        self, landmarker: Landmarker, side: FetchedImage | ErrorCode | None, deadline: float
    ) -> Person | ErrorCode | None:
        """Who is in the side photo, or why it cannot be used."""
        if side is None or isinstance(side, ErrorCode):
            return side
        try:
            picture = self._picture(side, deadline)
            with self._metrics.step("detect"):
                return find_side_person(landmarker, picture)
        except (ImageError, PhotoRefusedError) as refusal:
            return refusal.code

    async def _on_worker(self, work: Callable[[Landmarker], Result]) -> Result:
        """`work` with a landmarker of its own, once one is free."""
        queued = time.perf_counter()
        context = contextvars.copy_context()

        def start(landmarker: Landmarker) -> Result:
            self._metrics.steps.labels("queue").observe(time.perf_counter() - queued)
            return context.run(work, landmarker)

        return await self._workers.run(start)

    async def _calculate_without_photo(
        self, body: EstimateWithoutPhotoRequest, chart: Chart | None
    ) -> EstimateBodyResponse:
        """Raises QueueFullError when many wait for theirs."""
        shopper = _shopper_of(body)

        def work() -> EstimateBodyResponse:
            estimate = without_photo(shopper, self._method.population, self._method.body_type_edges)
            return self._answer(estimate, chart, shopper)

        return await self._calculations.run(work)

    def _answer(self, estimate: Estimate, chart: Chart | None, shopper: Shopper) -> EstimateBodyResponse:
        chart_size = None if chart is None else choose(chart, estimate.body, shopper.fit)
        return answer(estimate, self._method.version, chart_size)


def _shopper_of(body: EstimateWithoutPhotoRequest) -> Shopper:
    return Shopper(body.height_cm, body.weight_kg, body.gender, body.fit_preference)


def _chart_of(body: EstimateWithoutPhotoRequest) -> Chart | None:
    """The request's size chart, before anything is downloaded for it. Raises RefusedError."""
    if body.size_chart is None:
        return None
    try:
        return read_chart(body.size_chart, body.fit_preference)
    except ChartError as error:
        detail = f"{sentence(ErrorCode.SIZE_CHART_INVALID)} {error}"
        raise RefusedError(ErrorCode.SIZE_CHART_INVALID, str(error), detail) from error


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client hangs up. Raises ClientGoneError then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        # The download and the place in the queue are given up before the request ends.
        with suppress(asyncio.CancelledError, Exception):
            await working


def load_landmarkers(settings: SizingSettings) -> list[Landmarker]:
    """One per worker; none when the model is missing, which /health and every request then say."""
    # The landmarkers keep the cores busy already.
    cv2.setNumThreads(1)
    try:
        return [Landmarker(settings.mediapipe_model_path) for _ in range(settings.workers)]
    except ModelMissingError as error:
        _log.error("model_not_loaded", reason=str(error))
        return []


def key_check(keys: tuple[str, ...]) -> Callable[..., Awaitable[None]]:
    """A dependency that refuses requests without one of `keys`; with no keys, none are refused."""
    expected = [key.encode() for key in keys]

    # A coroutine, because FastAPI runs a plain function in a thread of its own.
    async def check(
        key: Annotated[str | None, Security(KEY_HEADER)],
        token: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    ) -> None:
        given = [(key or "").encode(), (token.credentials if token else "").encode()]
        # Every key is compared, each in constant time, so that the time tells nothing.
        matches = [hmac.compare_digest(each, one) for each in given for one in expected]
        if expected and not any(matches):
            raise RefusedError(ErrorCode.UNAUTHORIZED)

    return check


def create_app(settings: SizingSettings, tracer: Tracer = NO_TRACER) -> FastAPI:
    """The service with everything it needs; models and connections are made when it starts."""
    method = load_method()
    metrics = Metrics(tracer)
    redis = RedisWatch(settings.redis_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        workers = Workers(await asyncio.to_thread(load_landmarkers, settings), settings.sizing_queue)
        # One thread: it is Python almost all along, and more would only hold up the event loop.
        calculations = BoundedThreads("without-photo", 1, MOST_AT_ONCE - 1)
        fetcher = ImageFetcher(
            trusted_origins=settings.trusted_origins,
            rewrite_origins=settings.rewrite_origins,
            total_timeout=BUDGET_SECONDS - AFTER_DOWNLOAD_SECONDS,
            max_concurrent=MOST_AT_ONCE,
            tracer=tracer,
        )
        metrics.queue_depth.set_function(workers.waiting)
        detail = "" if workers.loaded else "no pose model"
        readiness = Readiness({"model": lambda: CheckResult(workers.loaded, detail)})
        metrics.registry.register(ReadyGauge(readiness))
        app.state.workers = workers
        app.state.readiness = readiness
        app.state.sizer = Sizer(fetcher, workers, calculations, method, metrics)
        try:
            async with redis.watching():
                landmarkers = settings.workers if workers.loaded else 0
                _log.info("sizing_started", landmarkers=landmarkers, open=not settings.sizing_api_keys)
                yield
        finally:
            workers.close()
            calculations.close()

    app = FastAPI(
        title="WearOn sizing API",
        version=method.version,
        description="Body measurements and a clothing size from a photo and the shopper's height.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        # FastAPI's own spans of requests, for our provider alone: it would look for one by itself.
        telemetry={
            "tracing": tracer.provider is not None,
            "tracer_provider": tracer.provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope["path"] in QUIET,
        },
    )
    check = key_check(tuple(key.get_secret_value() for key in settings.sizing_api_keys))

    @app.post(
        "/estimate-body",
        dependencies=[Depends(check)],
        responses=documented_errors(ESTIMATE_BODY_CODES),
        summary="Measure and size the person in a photo",
    )
    async def estimate_body(body: EstimateBodyRequest, request: Request) -> EstimateBodyResponse:
        return await unless_gone(request, app.state.sizer.estimate(body))

    @app.post(
        "/estimate-without-photo",
        dependencies=[Depends(check)],
        responses=documented_errors(WITHOUT_PHOTO_CODES),
        summary="The same answer from height, and weight and sex as far as they are known",
    )
    async def estimate_without_photo(
        body: EstimateWithoutPhotoRequest, request: Request
    ) -> EstimateBodyResponse:
        return await unless_gone(request, app.state.sizer.estimate_without_photo(body))

    @app.post(
        "/check-photo",
        dependencies=[Depends(check)],
        responses=documented_errors(CHECK_PHOTO_CODES),
        summary="Whether a photo will do for a try-on or for sizing, before anything is paid for it",
    )
    async def check_photo(body: CheckPhotoRequest, request: Request) -> CheckPhotoResponse:
        return await unless_gone(request, app.state.sizer.check(body))

    # Many monitors ask with HEAD.
    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="State for people and dashboards; always 200")
    async def health() -> Health:
        workers: Workers = app.state.workers
        fine = workers.loaded and redis.connected
        return Health(
            status="ok" if fine else "degraded",
            model_loaded=workers.loaded,
            redis_connected=redis.connected,
            method_version=method.version,
            queue_depth=workers.waiting(),
        )

    @app.head("/live", include_in_schema=False)
    @app.get("/live", summary="200 as long as the process runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Whether photos can be measured", responses={503: {"description": "Not yet"}})
    async def ready() -> JSONResponse:
        fine, answer = app.state.readiness.report()
        return JSONResponse(answer, 200 if fine else 503)

    @app.get("/metrics", response_class=Response, summary="Prometheus metrics")
    async def metrics_page() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    add_error_answers(app, metrics)
    app.add_middleware(RequestMiddleware, metrics=metrics, paths=PATHS, tracer=tracer)
    if settings.sizing_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.sizing_cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-Request-Id", "X-API-Key", "Authorization"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return app


def add_error_answers(app: FastAPI, metrics: Metrics) -> None:
    """What is answered, counted and logged where a route raises instead of returning an answer."""

    @app.exception_handler(RefusedError)
    async def refuse(request: Request, error: RefusedError) -> JSONResponse:
        metrics.refused(error.code, error.reason)
        body = problem(error.code, request_id_of(request.scope), error.detail, error.fallback)
        return JSONResponse(body, status_of(error.code), retry_after(error.code))

    @app.exception_handler(RequestValidationError)
    async def refuse_request(request: Request, error: RequestValidationError) -> JSONResponse:
        complaints = [_complaint(item) for item in error.errors()]
        if len(complaints) > MOST_COMPLAINTS:
            complaints[MOST_COMPLAINTS:] = [f"and {len(complaints) - MOST_COMPLAINTS} more"]
        detail = "The request is not valid: " + "; ".join(complaints)
        metrics.refused(ErrorCode.REQUEST_INVALID, detail)
        return JSONResponse(problem(ErrorCode.REQUEST_INVALID, request_id_of(request.scope), detail), 422)

    @app.exception_handler(StarletteHTTPException)
    async def refuse_http(request: Request, error: StarletteHTTPException) -> Response:
        metrics.refused(ErrorCode.REQUEST_INVALID, str(error.detail))
        # What FastAPI says of a body that json.loads cannot even begin to read.
        if error.status_code == 400:
            return JSONResponse(problem(ErrorCode.REQUEST_INVALID, request_id_of(request.scope)), 422)
        detail = {404: NO_SUCH_PATH, 405: OTHER_METHOD}.get(error.status_code, str(error.detail))
        body = problem(ErrorCode.REQUEST_INVALID, request_id_of(request.scope), detail)
        return JSONResponse(body, error.status_code, error.headers)


def _complaint(item: dict[str, Any]) -> str:
    """What is wrong with one field, without repeating what was sent."""
    path = [str(part)[:LONGEST_NAME] for part in item["loc"] if part != "body"]
    if item["type"] == "json_invalid":
        return f"it is no JSON from character {path[-1]} on"
    said = str(item["msg"])
    if item["type"] in ("model_attributes_type", "dict_type") or (item["type"] == "missing" and not path):
        said = "must be a JSON object" if path else "send a JSON object, with Content-Type: application/json"
    elif item["type"] in OUT_OF_RANGE:
        said += next((f" {unit}" for end, unit in UNITS.items() for part in path if part.endswith(end)), "")
    return f"{'.'.join(path)}: {said}" if path else said
