"""How fast `pipeline serve` answers, and whether it stays well under mixed and malformed requests.

    python benchmarks/serve.py INDEX [--seconds 10] [--soak-seconds 180] [--output bench_serve.json]

    stored     text queries a second, 16 connections, stored vectors for the encoder's  at least 500
    encoder    the same with the encoder
               p99 / p50 of both                                                        at most 5
    soak       resident memory, last third / first third                               at most 1.05
               requests without an answer, refusals without a sentence, answers of 500  0

The server is a process of its own on the same machine and cores, so the client's share of the
processors is taken from it. An index of imported vectors has no encoder: its texts get stored
vectors throughout. Exit code 1 where a figure is missed.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from figures import described, figure, show
from measuring import Ratio
from serve_requests import REQUESTS, exchange, text_query

CONNECTIONS = 16
TROUBLES = 8
"""Connections of the soak, each opened anew for every request."""
QUERIES_A_SECOND = 500.0
TAIL = 5.0
GROWTH = 1.05
WARM_SECONDS = 3.0
SETTLE_SECONDS = 20.0
"""Of trouble before memory is watched: pools and caches fill first."""


def main() -> None:
    """Runs all three, writes the JSON as it grows and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("index")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--soak-seconds", type=float, default=180)
    parser.add_argument("--output", type=Path, default=Path("bench_serve.json"))
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stored", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.index, given.serve, stored=given.stored)
        return
    found: dict[str, Any] = {"connections": CONNECTIONS, "cpus": len(os.sched_getaffinity(0))}
    ratios: list[Ratio] = []

    def keep(name: str, what: dict[str, Any], of: list[Ratio]) -> None:
        found[name] = what
        ratios.extend(of)
        given.output.write_text(json.dumps(found | {"ratios": described(ratios)}, indent=2) + "\n")

    for name, options in (("stored", ["--stored"]), ("encoder", [])):
        with server(given.index, options) as (port, _):
            asyncio.run(load(port, min(WARM_SECONDS, given.seconds)))
            measured = asyncio.run(load(port, given.seconds))
            keep(name, measured, judged_load(name, measured))
    with server(given.index, []) as (port, process):
        asyncio.run(soak(port, process, min(SETTLE_SECONDS, given.soak_seconds)))
        measured = asyncio.run(soak(port, process, given.soak_seconds))
        keep("soak", measured, judged_soak(measured))
    show(ratios, "Serving")
    sys.exit(1 if any(ratio.holds is False for ratio in ratios) else 0)


def judged_load(name: str, measured: dict[str, Any]) -> list[Ratio]:
    """Queries a second and the tail."""
    least = QUERIES_A_SECOND if name == "stored" else None
    return [
        figure(f"{name}: queries a second", measured["queries_per_second"], least, at_least=True),
        figure(f"{name}: p99 / p50", measured["p99_ms"] / measured["p50_ms"], TAIL, at_least=False),
    ]


def judged_soak(measured: dict[str, Any]) -> list[Ratio]:
    """Memory and answers."""
    grown = measured["memory_mb_last_third"] / measured["memory_mb_first_third"]
    none = ("unanswered", "untold", "broken")
    return [
        figure("soak: memory, last third / first", grown, GROWTH, at_least=False),
        *(figure(f"soak: {what} of {measured['requests']}", measured[what], 0, at_least=False)
          for what in none),
    ]  # fmt: skip


def serve(index: str, port: int, *, stored: bool) -> None:
    """The server; with `stored` texts get vectors of clips in turn instead of the encoder's."""
    import torch
    import uvicorn

    from index.search import open_index
    from index.serving.app import create_app
    from index.serving.guard import Metrics
    from index.serving.limits import Limits
    from index.serving.service import Service
    from index.stored_vectors import block_vectors

    metrics = Metrics()
    opened = open_index(index)
    service = Service(opened, torch.device("cpu"), Limits(), metrics.batch.observe)
    without = service.load()
    if stored or without:
        vectors_ND = next(block_vectors(opened.url, opened.card.blocks[0], opened.card.metric))
        encode = service._texts.encode

        def look_up(queries: Any) -> Any:
            if any(term.kind != "text" for query in queries for term in query):
                return encode(queries)
            return [vectors_ND[hash(query[0].value) % len(vectors_ND)] for query in queries]

        service._texts.encode = look_up  # type: ignore[method-assign]
        service.asks = tuple(dict.fromkeys((*service.asks, "text")))
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
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


async def load(port: int, seconds: float) -> dict[str, float]:
    """Queries a second and latencies in milliseconds."""
    latencies: list[float] = []
    end = time.monotonic() + seconds

    async def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            body = text_query(rng)
            started = time.monotonic()
            answer = await exchange(reader, writer, "POST", "/api/search", body)
            if answer.status != 200:
                sys.exit(f"a search was answered with {answer.status}: {answer.body[:200]!r}")
            latencies.append(1000 * (time.monotonic() - started))
        writer.close()
        await writer.wait_closed()

    started = time.monotonic()
    await asyncio.gather(*(ask(seed) for seed in range(CONNECTIONS)))
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    return {
        "queries_per_second": round(len(latencies) / (time.monotonic() - started), 1),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
    }


async def soak(port: int, process: psutil.Process, seconds: float) -> dict[str, Any]:
    """Mixed and malformed requests: what came back of each kind, resident memory over time."""
    statuses: Counter[str] = Counter()
    wrong: Counter[str] = Counter(unanswered=0, untold=0, broken=0)
    memory: list[float] = []
    end = time.monotonic() + seconds

    async def trouble(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end:
            method, path, body = REQUESTS[rng.integers(len(REQUESTS))](rng)
            try:
                async with asyncio.timeout(60):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    answer = await exchange(reader, writer, method, path, body)
                writer.close()
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as err:
                statuses[f"{method} {path[:24]}: {type(err).__name__}"] += 1
                wrong["unanswered"] += 1
                continue
            statuses[f"{method} {path[:24]}: {answer.status}"] += 1
            wrong["untold"] += not answer.is_told
            wrong["broken"] += answer.status >= 500 and answer.status != 503

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(0.5)

    await asyncio.gather(watch(), *(trouble(seed) for seed in range(TROUBLES)))
    third = max(1, len(memory) // 3)
    return {
        "seconds": seconds,
        "requests": sum(statuses.values()),
        **wrong,
        "statuses": dict(sorted(statuses.items())),
        "memory_mb_first_third": round(statistics.median(memory[:third]), 1),
        "memory_mb_last_third": round(statistics.median(memory[-third:]), 1),
        "memory_mb_most": round(max(memory), 1),
    }


if __name__ == "__main__":
    main()
