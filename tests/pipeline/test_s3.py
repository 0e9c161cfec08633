"""The whole stage against an S3 server on loopback (moto), and against one that misbehaves.

Between client and server stands a proxy that can cut the connection in the middle of an upload or
answer 503, since the server itself never fails.
"""

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer

from extractors.errors import AbortError
from pipeline import storage
from pipeline.config import ExtractConfig
from pipeline.extract import plan_extract, run_extract
from pipeline.shards import shard_numbers
from pipeline.verify import verify_dataset
from tests.pipeline.conftest import numbered_copies, tar_digests

CPU = torch.device("cpu")
ERROR = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Slow down</Message></Error>"
BUSY = b"\r\n".join(
    (
        b"HTTP/1.1 503 Slow Down",
        b"Content-Type: application/xml",
        b"Connection: close",
        b"Content-Length: %d" % len(ERROR),
        b"",
        ERROR,
    )
)


@dataclass
class Proxy:
    """Forwards TCP to the server; `faults` are used up by connections whose first bytes match."""

    target: tuple[str, int]
    faults: list[tuple[bytes, str]] = field(default_factory=list)
    """(start of the request, 'cut' or 'busy')."""
    met: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            back = threading.Thread(target=self._forward, args=(server, client), daemon=True)
            back.start()
            while data := _receive(client):
                if fault := self._fault(data):
                    if fault == "busy":
                        client.sendall(BUSY)
                    else:  # the head and half of the body go through, then the line is dead
                        head, _, body = data.partition(b"\r\n\r\n")
                        server.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])
                    break
                server.sendall(data)
            for end in (client, server):
                end.close()

    def _fault(self, data: bytes) -> str:
        with self._lock:
            for number, (start, fault) in enumerate(self.faults):
                if data.startswith(start):
                    del self.faults[number]
                    self.met += 1
                    return fault
        return ""

    @staticmethod
    def _forward(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(2**16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def _receive(client: socket.socket) -> bytes:
    try:
        return client.recv(2**16)
    except OSError:
        return b""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """Of this process: nothing outside of it is reached."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield str(host), int(port)
    moto.stop()


@pytest.fixture
def proxy(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What `s3://` means in a test, as a user sets it: by the environment alone."""
    made = Proxy(server)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": made.url,
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(storage, "PAUSES", (0.05, 0.1, 0.2))
    yield made
    s3fs.S3FileSystem.clear_instance_cache()
    made.close()


@pytest.fixture
def bucket(proxy: Proxy, tmp_path: Path) -> str:
    """The URL of a bucket of this test's own."""
    del proxy
    name = tmp_path.name.replace("_", "-").lower()[-60:].strip("-")
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def source(bucket: str, clip: Path, tmp_path: Path) -> str:
    """Four clips in the bucket."""
    numbered_copies(clip, tmp_path / "videos", 4)
    fsspec.filesystem("s3").put(str(tmp_path / "videos"), f"{bucket}/videos", recursive=True)
    return f"{bucket}/videos"


@pytest.fixture
def impatient(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own tries take minutes together, which is right on a cluster."""
    del proxy
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)


def extract(source: str, dataset: str, config: ExtractConfig, workers: int = 1) -> list[int]:
    """Plans and runs; the numbers of the shards that were made."""
    made: list[int] = []
    todo = plan_extract(source, dataset, config)
    run_extract(
        todo,
        dataset,
        config,
        CPU,
        executor="local",
        num_workers=workers,
        on_record=lambda record: made.append(record.number),
    )
    return made


def digests(dataset: str, folder: Path) -> dict[str, str]:
    """Of the tars of a remote dataset."""
    filesystem, path = storage.locate(dataset)
    filesystem.get(f"{path}/shards/", f"{folder}/shards/", recursive=True)
    return tar_digests(folder)


def test_from_bucket_to_bucket(
    source: str, bucket: str, config: ExtractConfig, tmp_path: Path
) -> None:
    """Two worker processes; the tars of the local disk; run again, nothing is done."""
    dataset = f"{bucket}/dataset"
    assert sorted(extract(source, dataset, config, workers=2)) == [0, 1]
    assert verify_dataset(dataset) == []
    assert extract(source, dataset, config) == []
    extract(str(tmp_path / "videos"), str(tmp_path / "local"), config)
    assert digests(dataset, tmp_path / "copy") == tar_digests(tmp_path / "local")
    assert storage.names(f"{dataset}/attempts") == []


def test_a_shard_is_there_when_its_record_is(
    source: str, bucket: str, config: ExtractConfig
) -> None:
    """A run that was killed before a record: the tar beside it counts for nothing."""
    dataset = f"{bucket}/dataset"
    extract(source, dataset, config)
    storage.remove(f"{dataset}/shards/000001_stats.json")
    assert shard_numbers(dataset) == [0]
    assert extract(source, dataset, config) == [1]
    assert verify_dataset(dataset) == []


@pytest.mark.parametrize("fault", ["cut", "busy"])
def test_an_upload_that_breaks_is_made_again(
    source: str, bucket: str, config: ExtractConfig, proxy: Proxy, fault: str
) -> None:
    dataset = f"{bucket}/dataset"
    broken = ("000000.tar", "000000.tar", "000001.parquet", "000001_stats.json")
    shards = f"PUT /{dataset.removeprefix('s3://')}/shards/"
    uploads = [f"{shards}{name}".encode() for name in broken]
    proxy.faults += [(upload, fault) for upload in uploads]
    assert extract(source, dataset, config) == [0, 1]
    assert proxy.met == len(uploads)
    assert verify_dataset(dataset) == []


@pytest.mark.usefixtures("impatient")
def test_an_upload_that_never_gets_through_ends_in_one_line_and_shows_nothing(
    source: str, bucket: str, config: ExtractConfig, proxy: Proxy
) -> None:
    dataset = f"{bucket}/dataset"
    upload = f"PUT /{dataset.removeprefix('s3://')}/shards/000001.tar".encode()
    proxy.faults += [(upload, "busy")] * 1000
    with pytest.raises(AbortError) as caught:
        extract(source, dataset, config)
    assert "000001.tar: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(proxy.faults) > 800  # bounded
    proxy.faults.clear()
    assert shard_numbers(dataset) == [0]
    assert extract(source, dataset, config) == [1]
    assert verify_dataset(dataset) == []


def test_a_listing_that_lags_costs_work_but_no_shard(
    source: str, bucket: str, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The listing shows nothing of the first run: the same shards are made again, byte for byte."""
    dataset = f"{bucket}/dataset"
    extract(source, dataset, config)
    before = digests(dataset, tmp_path / "before")
    names = storage.names
    with monkeypatch.context() as patch:
        patch.setattr(storage, "names", lambda u: [] if u.endswith("/shards") else names(u))
        assert set(extract(source, dataset, config)) <= {0, 1}
    assert digests(dataset, tmp_path / "after") == before
    extract(source, dataset, config)
    assert verify_dataset(dataset) == []


def test_what_the_store_does_not_have_is_not_found(bucket: str) -> None:
    assert not storage.exists(f"{bucket}/nothing")
    assert storage.names(f"{bucket}/nothing") == []
    storage.remove(f"{bucket}/nothing")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/nothing")


@pytest.mark.usefixtures("proxy")
def test_a_missing_bucket_is_one_line(clip: Path, config: ExtractConfig) -> None:
    dataset = "s3://there-is-no-such-bucket/dataset"
    with pytest.raises(AbortError, match=r"there-is-no-such-bucket/.*bucket") as caught:
        extract(str(clip), dataset, config)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("proxy")
def test_no_credentials_are_one_line(
    clip: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AbortError, match=r"Unable to locate credentials; set them") as caught:
        extract(str(clip), "s3://bucket/dataset", config)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_not_there_is_one_line(
    bucket: str, proxy: Proxy, clip: Path, config: ExtractConfig
) -> None:
    proxy.close()
    with pytest.raises(AbortError, match=r"Could not connect to the endpoint|Cannot connect"):
        extract(str(clip), f"{bucket}/dataset", config)


def test_a_download_that_breaks_is_made_again(bucket: str, proxy: Proxy) -> None:
    storage.publish_bytes(f"{bucket}/a", b"content")
    proxy.faults += [(f"GET /{bucket.removeprefix('s3://')}/a".encode(), "cut")] * 2
    assert storage.read_bytes(f"{bucket}/a") == b"content"
    assert proxy.met == 2
