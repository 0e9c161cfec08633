"""What strangers may take of the server: places, time, and what a bug of ours shows them."""

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlparse

import pytest

from index.serving.service import Service
from tests.index.serving.conftest import Client, running

RED = ("clip", "red@0-2", 1)


@contextlib.contextmanager
def begun(url: str, path: str, headers: str, body: bytes = b"") -> Iterator[socket.socket]:
    """A connection that has sent a part of its request."""
    place = urlparse(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as opened:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n"
        opened.sendall(head.encode() + body)
        yield opened


def answer_of(opened: socket.socket) -> tuple[int, dict[str, str]]:
    content = b""
    while piece := opened.recv(2**16):
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def metric(url: str, line: str) -> float:
    lines = Client(url)("/metrics").body.decode().splitlines()
    return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(line)), 0.0)


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_files_that_are_being_received_are_bounded(service: Service) -> None:
    """One is embedded at a time, `waiting_files` wait: the next is refused before its body."""
    waiting, most = 'search_waiting{queue="files"}', service.limits.waiting_files + 1
    with running(service) as url, contextlib.ExitStack() as senders:
        for _ in range(most):
            senders.enter_context(begun(url, "/api/uploads", "content-length: 1000", b"x"))
        until(lambda: metric(url, waiting) == most)
        with begun(url, "/api/uploads", "content-length: 1000\r\nconnection: close") as refused:
            status, sentence = answer_of(refused)
        assert (status, sentence["error"][:14]) == (503, "too many files")
        senders.close()  # who goes away gives the place back
        until(lambda: metric(url, waiting) == 0)
        assert Client(url)("/api/uploads", b"no video").status == 422


def test_a_place_is_kept_while_work_that_was_given_up_runs(service: Service, monkeypatch) -> None:
    gate = threading.Event()
    limits = dataclasses.replace(service.limits, file_timeout=0.2)
    monkeypatch.setattr(service, "limits", limits)
    monkeypatch.setattr(service, "embed_file", lambda _path, _at: gate.wait(30))
    with running(service) as url:
        assert Client(url)("/api/uploads", b"a file").status == 503
        assert metric(url, 'search_waiting{queue="files"}') == 1
        gate.set()
        until(lambda: metric(url, 'search_waiting{queue="files"}') == 0)


@pytest.mark.parametrize("path", ["/api/search", "/api/uploads"])
def test_a_body_that_does_not_arrive_is_408(service: Service, monkeypatch, path: str) -> None:
    limits = dataclasses.replace(service.limits, body_timeout=0.3, file_timeout=0.3)
    monkeypatch.setattr(service, "limits", limits)
    with running(service) as url:
        with begun(url, path, "content-length: 1000", b"{") as slow:
            status, sentence = answer_of(slow)
        assert (status, "within 0.3 s" in sentence["error"]) == (408, True)
        line = f'search_requests_total{{method="POST",route="{path}",status="408"}}'
        assert metric(url, line) == 1


def test_a_large_body_without_a_length_is_refused(url: str) -> None:
    pieces = b"10001\r\n" + b" " * 0x10001 + b"\r\n"
    with begun(
        url, "/api/search", "transfer-encoding: chunked\r\nconnection: close", pieces
    ) as one:
        assert answer_of(one) == (413, {"error": "a request may have 65536 bytes"})


def test_a_bug_of_ours_is_500_without_a_traceback(service: Service, monkeypatch, caplog) -> None:
    def broken(_requests):
        raise ZeroDivisionError("secret /place")

    monkeypatch.setattr(service, "search", broken)
    with running(service) as url:
        answer = Client(url).search(RED)
        counted = metric(
            url, 'search_requests_total{method="POST",route="/api/search",status="500"}'
        )
    assert answer.status == 500
    assert answer.json == {"error": "something broke on this server; its log says what"}
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert counted == 1
    assert "secret /place" in caplog.text


def test_more_requests_than_may_be_open_are_503(service: Service, monkeypatch) -> None:
    limits = dataclasses.replace(
        service.limits, waiting_searches=1, waiting_media=1, waiting_files=1
    )
    monkeypatch.setattr(service, "limits", limits)
    with running(service) as url, contextlib.ExitStack() as senders:
        for _ in range(limits.open_requests):
            senders.enter_context(begun(url, "/api/search", "content-length: 1000", b"{"))
        until(lambda: Client(url)("/api/index").status == 503)
        answer = Client(url)("/api/index")
        assert "too many requests" in answer.json["error"]
        assert answer.headers["retry-after"] == "1"
        assert Client(url)("/health").status == 200
        assert metric(url, 'search_requests_total{method="GET",route="other",status="503"}') > 0
        senders.close()
        until(lambda: Client(url)("/api/index").status == 200)


def test_a_comparison_with_all_embeddings_stops_no_other_search(
    service: Service, monkeypatch
) -> None:
    """It has threads of its own, and ends when its client was told that it takes too long."""
    begun_one, ended = threading.Event(), threading.Event()

    def endless(_scan, stopped):
        begun_one.set()
        until(stopped)
        ended.set()
        return []

    monkeypatch.setattr(service, "scan", endless)
    monkeypatch.setattr(service, "limits", dataclasses.replace(service.limits, search_timeout=2.0))
    answers = []
    with running(service) as url:
        slow = threading.Thread(
            target=lambda: answers.append(Client(url).search(RED, targets=["audio"]))
        )
        slow.start()
        assert begun_one.wait(20)
        assert Client(url).search(RED).status == 200
        assert answers == []
        slow.join()
        assert ended.wait(20)
    assert (answers[0].status, "within 2 s" in answers[0].json["error"]) == (503, True)
