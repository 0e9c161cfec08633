"""A Ray cluster of three hosts (network namespaces), with jobs submitted to its head as
docs/running.md says; one host is lost in the middle of the extraction."""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.verify import verify_dataset
from tests.pipeline.conftest import tar_digests

BIN = Path(sys.executable).parent
RAY, PIPELINE = str(BIN / "ray"), str(BIN / "pipeline")
BRIDGE = "brhosts"
HEAD = "10.77.0.1"
HOSTS = {f"mcphost{n}": f"10.77.0.{n}" for n in (1, 2, 3)}
SMALL = ["--object-store-memory=100000000", "--disable-usage-stats"]
METRICS_PORT = 8080
EXTRACT = ["extract.videos_per_shard=2", "extract.speech=null", "extract.text=null"]
DEMO = Path(__file__).parents[2] / "pipeline" / "demo_corpus" / "videos"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None,
        reason="namespaces need root and iproute2's ip",
    ),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def joined_hosts() -> Iterator[None]:
    """Three namespaces with a network of their own between them."""
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        for number, (host, address) in enumerate(HOSTS.items()):
            ip("netns", "add", host)
            peer = ("type", "veth", "peer", "name", "eth0", "netns", host)
            ip("link", "add", f"vhost{number}", *peer)
            ip("link", "set", f"vhost{number}", "master", BRIDGE, "up")
            ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            lose(host)
            subprocess.run(["ip", "netns", "del", host], check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)


def lose(host: str) -> None:
    """Every process of a host dies at once."""
    found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True)
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), 9)


def on(host: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", host, *words]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the hosts, the head first: it has no cores for work."""
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")  # of a busy machine
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    first, *others = HOSTS
    with joined_hosts():
        head = ["--head", f"--node-ip-address={HEAD}", "--port=6379", "--num-cpus=0"]
        board = ["--include-dashboard=true", "--dashboard-host=0.0.0.0"]
        folder = f"--temp-dir=/tmp/ray-hosts-{os.getpid()}"  # a socket's path must be short
        subprocess.run(on(first, RAY, "start", *head, *board, *SMALL, folder), check=True)
        for host in others:
            where = [f"--address={HEAD}:6379", f"--node-ip-address={HOSTS[host]}", "--num-cpus=1"]
            scraped = f"--metrics-export-port={METRICS_PORT}"
            subprocess.run(on(host, RAY, "start", *where, scraped, *SMALL), check=True)
        yield [first, *others]
    shutil.rmtree(f"/tmp/ray-hosts-{os.getpid()}", ignore_errors=True)


def submit(head: str, *command: str) -> list[str]:
    return on(head, RAY, "job", "submit", "--address", f"http://{HEAD}:8265", "--", *command)


def scrape(host: str) -> str:
    """What Prometheus would read of a host; empty where nothing answers."""
    url = f"http://{HOSTS[host]}:{METRICS_PORT}/metrics"
    code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
    return subprocess.run(
        on(host, sys.executable, "-c", code), capture_output=True, text=True
    ).stdout


def settings(values: Sequence[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def test_from_videos_to_an_index_by_submitted_jobs(cluster: list[str], tmp_path: Path) -> None:
    head, kept, lost = cluster
    videos = tmp_path / "videos"
    videos.mkdir()
    for source in sorted(DEMO.glob("*.mp4"))[:12]:
        shutil.copy(source, videos)
    data, run, idx = (str(tmp_path / name) for name in ("data", "run", "idx"))
    extract = [PIPELINE, "run", "extract", "--input", str(videos), *settings(EXTRACT)]
    ray = ["--executor", "ray"]
    job = subprocess.Popen(submit(head, *extract, "--output", data, *ray, "--workers", "2"))
    while not list(Path(data, "shards").glob("*_stats.json")):
        assert job.poll() is None, "ended before its first shard"
        time.sleep(0.2)
    lose(lost)
    exported = ""
    while job.poll() is None:
        page = scrape(kept)
        exported = page if "pipeline_videos" in page else exported
        time.sleep(2)
    assert job.returncode == 0
    assert re.search(r'^ray_pipeline_videos\w*\{.*status="success".*\} [1-9]', exported, re.M)
    assert verify_dataset(data) == []

    subprocess.run([*extract, "--output", str(tmp_path / "local")], check=True)
    assert tar_digests(Path(data)) == tar_digests(tmp_path / "local")

    train = ["run", "train", "--dataset", data, "--output", run, *ray]
    few = settings(["train.epochs=1", "train.sampling.batch_videos=6"])
    subprocess.run(submit(head, PIPELINE, *train, *few), check=True, timeout=400)
    index = ["run", "index", "--dataset", data, "--model", run, "--output", idx, *ray]
    subprocess.run(submit(head, PIPELINE, *index), check=True, timeout=400)
    found = subprocess.run(
        [PIPELINE, "search", idx, "--video", str(next(videos.glob("*.mp4"))), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(json.loads(found.stdout)) == 5
