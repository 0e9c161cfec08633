"""A server in a thread of this process, on a free port."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import uvicorn

from index.search import open_index
from index.serving.app import create_app
from index.serving.guard import LOCAL_HOSTS, Metrics
from index.serving.limits import Limits
from index.serving.service import Service
from tests.index.real_corpus import RealCorpus

LIMITS = Limits(upload_bytes=2**20, file_seconds=30.0, waiting_media=64)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Plain HTTP, as curl would."""

    url: str

    def __call__(
        self, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> Answer:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = {} if isinstance(body, bytes | None) else {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, content, kind | (headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return self._answer(answer)
        except urllib.error.HTTPError as err:
            with err:
                return self._answer(err)

    def search(self, *terms: tuple[str, str, int], **more: Any) -> Answer:
        parts = [{"kind": k, "value": v, "weight": w} for k, v, w in terms]
        return self("/api/search", {"terms": parts} | more)

    @staticmethod
    def _answer(answer: Any) -> Answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, headers, answer.read())


@contextlib.contextmanager
def running(service: Service, **more: Any) -> Iterator[str]:
    """The server's URL; it has ended on the way out."""
    app = create_app(service, Metrics(), hosts=LOCAL_HOSTS, **more)
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        socket.close()


@pytest.fixture(scope="session")
def service(real: RealCorpus) -> Iterator[Service]:
    made = Service(open_index(real.index), torch.device("cpu"), LIMITS)
    assert made.load() == []
    yield made
    made.close()


@pytest.fixture(scope="session")
def url(service: Service) -> Iterator[str]:
    with running(service) as found:
        yield found


@pytest.fixture
def ask(url: str) -> Client:
    return Client(url)


Serve = Callable[..., contextlib.AbstractContextManager[str]]
