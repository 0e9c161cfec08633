"""The routes. Everything that blocks runs in `index.serving.batching`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from jinja2 import Environment, PackageLoader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.staticfiles import StaticFiles

from extractors.errors import PipelineError, UsageError
from index.hits import Hit
from index.queries import Term
from index.serving.batching import Collector, OverloadedError, Pool
from index.serving.clips import byte_range
from index.serving.guard import COOKIE, RETRY_SECONDS, Guard, Metrics, Tokens
from index.serving.messages import (
    ClusterOut,
    ErrorOut,
    HealthOut,
    HitOut,
    IndexOut,
    MapMethod,
    MapOut,
    PointsOut,
    SampleOut,
    SearchIn,
    SearchOut,
    ShareOut,
    TermIn,
    UploadOut,
    WordOut,
)
from index.serving.service import SearchRequest, Service, UploadTerm
from index.serving.uploads import received
from index.space_map import Cluster, map_methods

logger = logging.getLogger(__name__)

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut} for status in (400, 401, 404, 408, 413, 422, 503)
}
A_DAY = "private, max-age=86400"


@dataclass(frozen=True)
class Queues:
    """What blocks, by kind."""

    searches: Collector[SearchRequest, list[Hit]]
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
            Pool("files", threads=1, waiting=limits.waiting_files, timeout=limits.file_timeout),
            Pool("clips", threads=2, waiting=limits.waiting_media, timeout=wait),
            Pool("maps", threads=1, waiting=16, timeout=limits.file_timeout),
            Pool("answers", threads=1, waiting=limits.waiting_searches, timeout=wait),
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
        for pool in (queues.files, queues.media, queues.maps, queues.answers):
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
    metrics.waiting.labels("files").set_function(lambda: queues.files.taken)
    metrics.waiting.labels("media").set_function(lambda: queues.media.taken)
    _add_error_handlers(app, service)
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

    @app.get("/api/index", tags=["search"])
    def describe() -> IndexOut:
        """What is served, and what can be asked."""
        card = service.index.card
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

    @app.post("/api/search", tags=["search"])
    async def search(query: SearchIn) -> SearchOut:
        """The clips nearest to a sum of texts, clips and uploaded files."""
        hits = await queues.searches.ask(_request(query))
        return await queues.answers.run(
            lambda: SearchOut(hits=[_hit(service, hit) for hit in hits])
        )

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


def _add_clips(app: FastAPI, service: Service, queues: Queues) -> None:
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
            lambda: [_cluster(service, n, one) for n, one in enumerate(found.clusters)]
        )
        points = PointsOut(
            x=list(found.x), y=list(found.y), cluster=list(found.cluster), id=list(found.id)
        )
        return MapOut(method=method, clusters=clusters, points=points)


_BINARY_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


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
    if term.kind == "upload":
        return UploadTerm(term.value, term.weight, term.modality)
    if term.modality is not None:
        raise UsageError(f"modality: of an upload, not of a {term.kind}")
    return Term(term.kind, term.value, term.weight)


def _thumbnail_path(clip: str) -> str:
    return f"/api/clips/{quote(clip, safe='@')}/thumbnail"


def _hit(service: Service, hit: Hit) -> HitOut:
    return HitOut(
        rank=hit.rank,
        id=hit.id,
        video=hit.video,
        start=hit.start,
        end=hit.end,
        score=hit.score,
        text=hit.text,
        thumbnail=_thumbnail_path(hit.id),
        media=service.clips.media_path(hit.id, service.clips.of_hit(hit)),
    )


def _cluster(service: Service, number: int, cluster: Cluster) -> ClusterOut:
    return ClusterOut(
        number=number,
        size=cluster.size,
        words=[WordOut(word=word, weight=weight) for word, weight in cluster.words],
        labels=[ShareOut(label=label, share=share) for label, share in cluster.labels],
        samples=[_sample(service, clip) for clip in cluster.typical],
    )


def _sample(service: Service, clip: str) -> SampleOut:
    media = service.clips.media_path(clip, service.clips.find(clip))
    return SampleOut(id=clip, thumbnail=_thumbnail_path(clip), media=media)


def _add_error_handlers(app: FastAPI, service: Service) -> None:
    """Every refusal is {"error": a sentence}; nothing of the server's inside gets out. What is
    expected nowhere is answered by `Guard`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, err: RequestValidationError) -> JSONResponse:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        return _error(422, f"{place or 'body'}: {str(first['msg']).lower()}")

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, err: HTTPException) -> JSONResponse:
        return _error(err.status_code, str(err.detail), dict(err.headers or {}))

    @app.exception_handler(PipelineError)
    async def failed(_request: Request, err: PipelineError) -> JSONResponse:
        if isinstance(err, OverloadedError):
            return _error(503, str(err), {"retry-after": RETRY_SECONDS})
        if isinstance(err, UsageError):
            return _error(422, service.public(str(err)))
        logger.error("%s", err)
        return _error(500, "the index is damaged or was changed: ask who runs this server")


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)


def _add_pages(app: FastAPI) -> None:
    static = Path(str(resources.files("index").joinpath("static")))
    app.mount("/static", StaticFiles(directory=static), name="static")
    environment = Environment(loader=PackageLoader("index"), autoescape=True)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse((static / "index.html").read_text(encoding="utf-8"))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(environment.get_template("api.html").render(api=app.openapi()))
