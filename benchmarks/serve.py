"""How fast `pipeline serve` answers, and whether it stays well under mixed and malformed requests.

    python benchmarks/serve.py INDEX [--seconds 10] [--soak 60] [--output serve.json]

Text queries over 16 kept-alive connections, once with the text encoder and once with stored vectors
in its place, then a soak that watches resident memory. The server is a process of its own on the
same machine, so the client's share of the processor is taken from it.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

CONNECTIONS = 16
WORDS = ("cat", "coffee", "rocket", "red", "green", "music", "water", "street", "old", "bright")


def main() -> None:
    """Runs all three and prints them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--soak", type=float, default=60)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stored", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.index, given.serve, stored=given.stored)
        return
    report: dict[str, object] = {"connections": CONNECTIONS, "cpus": os.cpu_count()}
    for name, options in (("stored_vectors", ["--stored"]), ("with_encoder", [])):
        with server(given.index, options) as (port, _):
            asyncio.run(load(port, min(3.0, given.seconds)))  # warm
            report[name] = asyncio.run(load(port, given.seconds))
    with server(given.index, []) as (port, process):
        asyncio.run(soak(port, process, min(5.0, given.soak)))
        report["soak"] = asyncio.run(soak(port, process, given.soak))
    text = json.dumps(report, indent=2)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


def serve(index: str, port: int, *, stored: bool) -> None:
    """The server; with `stored` texts get the vectors of clips in turn instead of the encoder's."""
    import torch
    import uvicorn

    from index.clip_vectors import clip_vector
    from index.search import open_index
    from index.serving.app import create_app
    from index.serving.guard import Metrics
    from index.serving.limits import Limits
    from index.serving.service import Service

    metrics = Metrics()
    opened = open_index(index)
    service = Service(opened, torch.device("cpu"), Limits(), metrics.batch.observe)
    service.load()
    if stored:
        ids = opened.ids["id"].slice(0, 64).to_pylist()
        vectors = [clip_vector(opened.url, opened.card, opened.ids, clip) for clip in ids]
        encode = service._texts.encode

        def look_up(queries):
            if any(term.kind != "text" for query in queries for term in query):
                return encode(queries)
            return [vectors[hash(query[0].value) % len(vectors)] for query in queries]

        service._texts.encode = look_up
    uvicorn.run(create_app(service, metrics), port=port, log_level="error", access_log=False)


@contextmanager
def server(index: str, options: list[str]) -> Iterator[tuple[int, psutil.Process]]:
    """A running server: its port and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, index, "--serve", str(port), *options]
    child = subprocess.Popen(command)
    try:
        for _ in range(3000):
            if child.poll() is not None:
                sys.exit(f"the server ended with {child.returncode}")
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port, psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(30)


async def load(port: int, seconds: float) -> dict[str, float]:
    """Queries a second and latencies in milliseconds."""
    latencies: list[float] = []
    end = time.monotonic() + seconds

    async def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            words = " ".join(rng.choice(WORDS, 4))
            body = json.dumps({"terms": [{"kind": "text", "value": words}], "k": 10}).encode()
            started = time.monotonic()
            status = await exchange(reader, writer, "POST", "/api/search", body)
            assert status == 200, status
            latencies.append(1000 * (time.monotonic() - started))
        writer.close()

    started = time.monotonic()
    await asyncio.gather(*(ask(seed) for seed in range(CONNECTIONS)))
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    return {
        "queries_per_second": round(len(latencies) / (time.monotonic() - started), 1),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
        "p99_over_p50": round(float(p99 / p50), 2),
    }


async def soak(port: int, process: psutil.Process, seconds: float) -> dict[str, object]:
    """Mixed and malformed requests: statuses, unanswered ones, resident memory over time."""
    statuses: Counter[str] = Counter()
    memory: list[float] = []
    end = time.monotonic() + seconds

    async def trouble(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end:
            method, path, body = REQUESTS[rng.integers(len(REQUESTS))](rng)
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                async with asyncio.timeout(60):
                    statuses[str(await exchange(reader, writer, method, path, body))] += 1
                writer.close()
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as err:
                statuses[f"unanswered: {type(err).__name__}"] += 1

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(0.5)

    await asyncio.gather(watch(), *(trouble(seed) for seed in range(8)))
    third = max(1, len(memory) // 3)
    return {
        "seconds": seconds,
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "memory_mb_first_third": round(statistics.median(memory[:third]), 1),
        "memory_mb_last_third": round(statistics.median(memory[-third:]), 1),
        "memory_mb_most": round(max(memory), 1),
    }


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    path: str,
    body: bytes,
) -> int:
    """One request on an open connection; gives the status and reads the answer to its end."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(
        (line[16:] for line in answer.split("\r\n") if line.startswith("content-length")), 0
    )
    await reader.readexactly(int(length))
    return int(answer.split(" ", 2)[1])


Make = Callable[[np.random.Generator], tuple[str, str, bytes]]


def _search(terms: object, **more: object) -> Make:
    body = json.dumps({"terms": terms} | more).encode()
    return lambda _rng: ("POST", "/api/search", body)


REQUESTS: tuple[Make, ...] = (
    lambda rng: (
        "POST",
        "/api/search",
        json.dumps({"terms": [{"kind": "text", "value": " ".join(rng.choice(WORDS, 3))}]}).encode(),
    ),
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


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
