"""The routes. Everything that blocks runs in `index.serving.batching`."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from jinja2 import Environment, PackageLoader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.staticfiles import StaticFiles

from extractors.errors import UsageError
from index.hits import Hit
from index.queries import Term
from index.serving.answers import clip_out, cluster_out, hits_out
from index.serving.batching import Collector, Pool
from index.serving.clips import byte_range
from index.serving.guard import COOKIE, Guard, Metrics, Tokens
from index.serving.messages import (
    ClipOut,
    ErrorOut,
    HealthOut,
    IndexOut,
    MapMethod,
    MapOut,
    PointsOut,
    SearchIn,
    SearchOut,
    TermIn,
    UploadOut,
)
from index.serving.refusals import add_error_handlers
from index.serving.service import Scan, SearchRequest, Service, UploadTerm
from index.serving.uploads import received
from index.space_map import map_methods

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut} for status in (400, 401, 404, 408, 413, 422, 503)
}
A_DAY = "private, max-age=86400"


@dataclass(frozen=True)
class Queues:
    """What blocks, by kind."""

    searches: Collector[SearchRequest, list[Hit] | Scan]
    scans: Pool
    files: Pool
    media: Pool
    maps: Pool
    answers: Pool

    @staticmethod
    def of(service: Service) -> "Queues":
        """As the limits of a service say."""
        limits = service.limits
        wait = limits.media_timeout
        return Queues(
            Collector(
                service.search, waiting=limits.waiting_searches, timeout=limits.search_timeout
            ),
            Pool("scans", threads=2, waiting=16, timeout=limits.search_timeout),
            Pool("files", threads=1, waiting=limits.waiting_files, timeout=limits.file_timeout),
            Pool("clips", threads=2, waiting=limits.waiting_media, timeout=wait),
            Pool("maps", threads=1, waiting=16, timeout=limits.file_timeout),
            Pool("answers", threads=4, waiting=limits.waiting_searches, timeout=wait),
        )


def create_app(
    service: Service,
    metrics: Metrics,
    *,
    token: str | None = None,
    hosts: tuple[str, ...] | None = None,
) -> FastAPI:
    """The server of an index whose models are loaded."""
    queues = Queues.of(service)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        queues.searches.start()
        yield
        await queues.searches.close()
        for pool in (queues.scans, queues.files, queues.media, queues.maps, queues.answers):
            pool.close()

    app = FastAPI(
        title="Clip search",
        description="Search in a learned space of video, sound and speech.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=REFUSALS,
    )
    tokens = Tokens(token)
    app.add_middleware(Guard, metrics=metrics, tokens=tokens, hosts=hosts, limits=service.limits)
    metrics.waiting.labels("searches").set_function(lambda: queues.searches.waiting)
    metrics.waiting.labels("scans").set_function(lambda: queues.scans.taken)
    metrics.waiting.labels("files").set_function(lambda: queues.files.taken)
    metrics.waiting.labels("media").set_function(lambda: queues.media.taken)
    add_error_handlers(app, service)
    _add_server(app, service, metrics, tokens)
    _add_search(app, service, queues)
    _add_clips(app, service, queues)
    _add_map(app, service, queues)
    _add_pages(app)
    return app


def _add_server(app: FastAPI, service: Service, metrics: Metrics, tokens: Tokens) -> None:
    @app.get("/health", tags=["server"])
    async def health() -> HealthOut:
        """That the server answers."""
        return HealthOut(clips=service.index.card.count - service.index.card.masked)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["server"])
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/api/session", status_code=204, tags=["server"])
    async def open_session(request: Request) -> Response:
        """A browser's cookie for the bearer token, since pictures cannot carry a header."""
        if not tokens.admits(request.headers):
            raise HTTPException(401, "that is not this server's token")
        answer = Response(status_code=204)
        answer.set_cookie(COOKIE, tokens.cookie, httponly=True, samesite="strict")
        return answer


def _add_search(app: FastAPI, service: Service, queues: Queues) -> None:
    limits = service.limits

    described = _described(service)

    @app.get("/api/index", tags=["search"])
    async def describe() -> IndexOut:
        """What is served, and what can be asked."""
        return described

    @app.post("/api/search", tags=["search"])
    async def search(query: SearchIn) -> SearchOut:
        """The clips nearest to a sum of texts, clips and uploaded files."""
        hits = await queues.searches.ask(_request(query))
        if isinstance(hits, Scan):
            hits = await _scanned(service, queues, hits)
        return await queues.answers.run(lambda: SearchOut(hits=hits_out(service.clips, hits)))

    @app.post("/api/uploads", status_code=201, tags=["search"], openapi_extra=_BINARY_BODY)
    async def upload(
        request: Request,
        at: Annotated[float | None, Query(ge=0, le=1e6, description="Only this second.")] = None,
    ) -> UploadOut:
        """Embeds a sound or video file, the body of the request, to be asked by."""
        bounds = limits.upload_bytes, limits.file_timeout
        # the place is taken first: what is being received fills the disk
        with queues.files.place() as place:
            async with received(request, *bounds) as path:
                found = await place.run(lambda: service.embed_file(path, at))
        return UploadOut.model_validate(
            dict(zip(("id", "seconds", "modalities"), found, strict=True))
        )


def _described(service: Service) -> IndexOut:
    card, limits = service.index.card, service.limits
    return IndexOut(
        clips=card.count - card.masked,
        videos=card.videos,
        dimension=card.dimension,
        metric=card.metric,
        factory=card.factory,
        targets=list(card.target_modalities),
        modalities=[name for name, count in card.embeddings.items() if count and name != "sum"],
        labels=service.values("label"),
        languages=service.values("language"),
        asks=list(service.asks),
        maps=list(map_methods()),
        upload_bytes=limits.upload_bytes,
        file_seconds=limits.file_seconds,
    )


async def _scanned(service: Service, queues: Queues, scan: Scan) -> list[Hit]:
    """Stopped when nobody waits for it any longer."""
    stopped = threading.Event()
    try:
        return await queues.scans.run(lambda: service.scan(scan, stopped.is_set))
    finally:
        stopped.set()


def _add_clips(app: FastAPI, service: Service, queues: Queues) -> None:
    @app.get("/api/clips/{clip}", tags=["clips"])
    async def show(clip: str) -> ClipOut:
        """A clip by its id `KEY@start-end`."""
        return await queues.answers.run(
            lambda: clip_out(service.clips, clip, service.clips.find(clip))
        )

    @app.get("/api/clips/{clip}/thumbnail", tags=["clips"], response_class=Response)
    async def thumbnail(clip: str) -> Response:
        """A JPEG from the middle of a clip."""
        content, reason = await queues.media.run(lambda: service.clips.thumbnail(clip))
        if not content:
            raise HTTPException(404, f"no picture: {reason}")
        return Response(content, media_type="image/jpeg", headers={"cache-control": A_DAY})

    @app.get("/api/clips/{clip}/media", tags=["clips"], response_class=Response)
    async def play(clip: str, request: Request) -> Response:
        """An mp4: the video's proxy, else the seconds of the clip cut from its source. Ranges of
        bytes are served."""
        found = await queues.media.run(lambda: service.clips.media(clip))
        if found is None:
            raise HTTPException(404, "neither a proxy nor the source of this clip can be reached")
        part = byte_range(request.headers.get("range"), found.size)
        first, last = part or (0, found.size)
        if first >= last:
            return Response(status_code=416, headers={"content-range": f"bytes */{found.size}"})
        headers = {
            "accept-ranges": "bytes",
            "content-length": str(last - first),
            "cache-control": A_DAY,
        }
        if part is not None:
            headers["content-range"] = f"bytes {first}-{last - 1}/{found.size}"
        return StreamingResponse(
            found.read(first, last), 206 if part else 200, headers, media_type="video/mp4"
        )


def _add_map(app: FastAPI, service: Service, queues: Queues) -> None:
    @app.get("/api/map", tags=["map"])
    async def space(method: MapMethod = "pca") -> MapOut:
        """Clusters, and a sample of the clips in two dimensions."""
        if method not in map_methods():
            raise HTTPException(404, f"no {method} map: umap-learn is not installed on this server")
        found = await queues.maps.run(lambda: service.map(method))
        clusters = await queues.answers.run(
            lambda: [cluster_out(service.clips, n, one) for n, one in enumerate(found.clusters)]
        )
        points = PointsOut(
            x=list(found.x), y=list(found.y), cluster=list(found.cluster), id=list(found.id)
        )
        return MapOut(method=method, clusters=clusters, points=points)


_OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BINARY_BODY = {"requestBody": {"required": True, "content": _OCTETS}}


def _request(query: SearchIn) -> SearchRequest:
    where = query.where.model_dump(exclude_none=True)
    return SearchRequest(
        terms=tuple(_term(term) for term in query.terms),
        k=query.k,
        where=tuple(sorted(where.items())),
        targets=tuple(sorted(set(query.targets))) if query.targets else None,
        merge=query.merge,
    )


def _term(term: TermIn) -> Term | UploadTerm:
    if isinstance(term.value, list) != (term.kind == "vector"):
        raise UsageError(f"{term.kind}: a vector is asked by a list of numbers, all else by a text")
    if isinstance(term.value, list):
        return Term("vector", "vector", term.weight, numbers=tuple(term.value))
    if not term.value.strip():
        raise UsageError(f"{term.kind}: empty; say what to look for")
    if term.kind == "upload":
        return UploadTerm(term.value, term.weight, term.modality)
    if term.modality is not None:
        raise UsageError(f"modality: of an upload, not of a {term.kind}")
    return Term(term.kind, term.value, term.weight)


def _add_pages(app: FastAPI) -> None:
    static = Path(str(resources.files("index").joinpath("static")))
    content = (static / "index.html").read_text(encoding="utf-8")
    app.mount("/static", StaticFiles(directory=static), name="static")
    environment = Environment(loader=PackageLoader("index"), autoescape=True)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(content)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(environment.get_template("api.html").render(api=app.openapi()))
