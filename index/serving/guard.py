"""What stands before every route: hosts, tokens, sizes, headers, metrics. Plain ASGI, so that
streams stay streams."""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index.serving.limits import Limits

COOKIE = "session"
RETRY_SECONDS = "1"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
GUARDED = ("/api", "/metrics", "/docs", "/openapi.json")
UPLOADS = "/api/uploads"
ALWAYS = ("/health", "/metrics")
"""Answered however many ask."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

logger = logging.getLogger(__name__)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "search_requests", "Requests.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "search_request_seconds",
            "Time to the first byte of the answer.",
            ["route"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60),
            registry=self.registry,
        )
        self.batch = Histogram(
            "search_batch_size",
            "Searches that went through the encoder and FAISS together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.waiting = Gauge(
            "search_waiting", "Calls that wait, by what for.", ["queue"], registry=self.registry
        )


class Tokens:
    """One bearer token, and the cookies that stand for it in a browser."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        key = secrets.token_bytes(32)
        self.cookie = hmac.new(key, (token or "").encode(), hashlib.sha256).hexdigest()

    def is_right(self, token: str) -> bool:
        """Compared in constant time."""
        expected = self._token or ""
        return hmac.compare_digest(token.encode(), expected.encode())

    def admits(self, headers: Headers) -> bool:
        """Whether a request carries the token or its cookie, where one is needed."""
        if self._token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_right(token.strip())
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self.cookie.encode())


class Guard:
    """Refuses what no route should see, counts the rest, and sets the headers of all answers."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        tokens: Tokens,
        hosts: tuple[str, ...] | None,
        limits: Limits,
    ) -> None:
        """`hosts` are the names this server answers to, None for any; a page elsewhere whose name
        was made to point here must not reach a server that listens on loopback alone."""
        self._app = app
        self._metrics = metrics
        self._tokens = tokens
        self._hosts = hosts
        self._limits = limits
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), time.monotonic()

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._finish(scope, message, time.monotonic() - started)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        bounded = receive if scope["path"] == UPLOADS else self._bounded(receive)
        self._open += 1
        try:
            await self._answer(scope, bounded, send_guarded)
        finally:
            self._open -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer, or 500 where it has a bug: counted, and with the headers of all."""
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception:
            if begun:  # too late for another answer: the server logs it and closes the connection
                raise
            logger.exception("%s %s", scope["method"], scope["path"])
            broken = error_answer(500, "something broke on this server; its log says what")
            await broken(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "").rsplit(":", 1)[0] if self._hosts else ""
        if self._hosts and host not in self._hosts:
            return error_answer(400, "this server answers to localhost alone")
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site") == "cross-site":
            return error_answer(403, "requests from pages of other sites are refused")
        path = scope["path"]
        if self._open >= self._limits.open_requests and path not in ALWAYS:
            retry = {"retry-after": RETRY_SECONDS}
            return error_answer(503, "too many requests are open; try again in a moment", retry)
        guarded = any(path == one or path.startswith(f"{one}/") for one in GUARDED)
        if guarded and path != "/api/session" and not self._tokens.admits(headers):
            asked = {"www-authenticate": "Bearer"}
            return error_answer(
                401, "this server asks for a token: Authorization: Bearer TOKEN", asked
            )
        length = headers.get("content-length", "0")
        most = self._limits.body_bytes
        if path != UPLOADS and length.isdecimal() and int(length) > most:
            return error_answer(413, f"a request may have {most} bytes")
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """The body of a request: so many bytes, in so many seconds."""
        most, seconds = self._limits.body_bytes, self._limits.body_timeout
        left, deadline = most, asyncio.get_running_loop().time() + seconds
        whole = False

        async def receive_bounded() -> Message:
            nonlocal left, whole
            if whole:  # what comes now is the client going away, whenever that is
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as err:
                raise HTTPException(408, f"no whole request within {seconds:g} s") from err
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"a request may have {most} bytes")
            whole = not message.get("more_body", False)
            return message

        return receive_bounded

    def _finish(self, scope: Scope, message: Message, seconds: float) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("cache-control", "no-cache")
        # the route's pattern, not the path: a name a clip would never end
        route = getattr(scope.get("route"), "path", "other")
        known = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
        self._metrics.requests.labels(route, known, str(message["status"])).inc()
        self._metrics.seconds.labels(route).observe(seconds)


def error_answer(
    status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """What every refused request is answered with: {"error": a sentence}."""
    return JSONResponse({"error": sentence}, status, headers)
