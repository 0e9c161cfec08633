"""Requests to a server, good and malformed, over connections that are kept."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WORDS = ("cat", "coffee", "rocket", "red", "green", "music", "water", "street", "old", "bright")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    @property
    def is_told(self) -> bool:
        """Whether a refusal says why: a sentence, as JSON."""
        if self.status < 400:
            return True
        try:
            return bool(json.loads(self.body).get("error"))
        except (ValueError, AttributeError):
            return False


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    path: str,
    body: bytes,
) -> Answer:
    """One request on an open connection, and its answer to the end."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(
        (line[16:] for line in answer.split("\r\n") if line.startswith("content-length")), 0
    )
    content = await reader.readexactly(int(length))
    return Answer(int(answer.split(" ", 2)[1]), content)


def text_query(rng: np.random.Generator) -> bytes:
    """The body of a search for a few words."""
    words = " ".join(rng.choice(WORDS, 4))
    return json.dumps({"terms": [{"kind": "text", "value": words}], "k": 10}).encode()


Make = Callable[[np.random.Generator], tuple[str, str, bytes]]


def _search(terms: object, **more: object) -> Make:
    body = json.dumps({"terms": terms} | more).encode()
    return lambda _rng: ("POST", "/api/search", body)


REQUESTS: tuple[Make, ...] = (
    lambda rng: ("POST", "/api/search", text_query(rng)),
    lambda rng: ("POST", "/api/search", text_query(rng)),
    lambda rng: ("POST", "/api/search", text_query(rng)),
    _search([{"kind": "text", "value": "cat"}], where={"time": "0-5"}, merge=True),
    _search([{"kind": "text", "value": "cat"}], targets=["audio"]),
    _search([{"kind": "clip", "value": "gone@0-1"}]),
    _search([{"kind": "upload", "value": "gone"}]),
    _search([{"kind": "text", "value": "\x00\ud800"}]),
    _search([], k=-1),
    _search([{"kind": "text", "value": "x" * 5000}]),
    lambda rng: ("POST", "/api/search", rng.bytes(int(rng.integers(1, 4000)))),
    lambda rng: ("POST", "/api/search", b" " * 100_000),
    lambda rng: ("POST", "/api/uploads", rng.bytes(int(rng.integers(1, 200_000)))),
    lambda _rng: ("POST", "/api/uploads", b"#EXTM3U\nfile:///etc/passwd\n"),
    lambda _rng: ("GET", "/api/clips/%2e%2e%2f%2e%2e/media", b""),
    lambda _rng: ("GET", "/api/map", b""),
    lambda _rng: ("GET", "/", b""),
    lambda _rng: ("GET", "/static/../../pyproject.toml", b""),
    lambda _rng: ("GET", "/metrics", b""),
    lambda _rng: ("DELETE", "/api/search", b""),
)
