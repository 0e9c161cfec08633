"""The API over real HTTP."""

import contextlib
import dataclasses
import http.client
import json
import re
import threading
from pathlib import Path

import pytest

from index.serving.app import create_app
from index.serving.guard import Metrics
from index.serving.service import Service
from tests.index.real_corpus import RealCorpus
from tests.index.serving.conftest import Client, running

RED = ("clip", "red@0-2", 1)


def test_words_find_clips_with_pictures_and_seconds_to_play(ask: Client) -> None:
    answer = ask.search(("text", "a red fire truck", 1), k=3)
    assert answer.status == 200
    hits = answer.json["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    best = hits[0]
    picture = ask(best["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.body.startswith(b"\xff\xd8")
    path, _, seconds = best["media"].partition("#t=")
    assert seconds == f"{best['start']:.3f},{best['end']:.3f}"
    assert ask(path).body[4:8] == b"ftyp"


def test_a_clip_finds_itself_and_taken_away_goes_last(ask: Client) -> None:
    assert ask.search(RED).json["hits"][0]["id"] == "red@0.000-2.000"
    away = ask.search(("clip", "blue@0-2", 1), ("clip", "red@0-2", -1), k=10).json["hits"]
    assert away[0]["video"] == "blue"
    assert away[-1]["video"] == "red"


def test_a_vector_is_asked_by_its_numbers(ask: Client, service: Service) -> None:
    own = service.index.vectors.reconstruct(0).tolist()
    terms = [{"kind": "vector", "value": own}]
    hits = ask("/api/search", {"terms": terms, "k": 1}).json["hits"]
    assert hits[0]["id"] == service.index.ids["id"][0].as_py()
    for value in ([1.0], "/etc/passwd", [1e300] * len(own)):
        refused = ask("/api/search", {"terms": [{"kind": "vector", "value": value}]})
        assert refused.status == 422
    assert ask("/api/search", {"terms": [{"kind": "text", "value": own}]}).status == 422


def test_conditions_targets_and_merging(ask: Client) -> None:
    found = ask.search(RED, where={"label": "b"}).json["hits"]
    assert {hit["video"] for hit in found} == {"blue"}
    silent = ask.search(RED, targets=["audio"], k=10).json["hits"]
    assert "quiet" not in {hit["video"] for hit in silent}
    assert "tone" in {hit["video"] for hit in silent}
    nothing = ask.search(RED, where={"video": "nowhere"})
    assert (nothing.status, nothing.json) == (200, {"hits": []})


def test_an_uploaded_video_finds_its_like(ask: Client, real: RealCorpus) -> None:
    for name, has in (("green.mp4", ["video", "audio"]), ("quiet.mp4", ["video"])):
        sent = ask("/api/uploads", (real.videos / name).read_bytes())
        assert sent.status == 201
        assert (sent.json["seconds"], sent.json["modalities"]) == (4.0, has)
        terms = [{"kind": "upload", "value": sent.json["id"]}]
        hits = ask("/api/search", {"terms": terms}).json["hits"]
        assert hits[0]["video"] == name.removesuffix(".mp4")
    refused = ask("/api/search", {"terms": [terms[0] | {"modality": "audio"}]})
    assert (refused.status, refused.json) == (422, {"error": "that file has no audio"})


def test_a_moment_of_an_upload(ask: Client, real: RealCorpus) -> None:
    content = (real.videos / "red.mp4").read_bytes()
    assert ask("/api/uploads?at=1.5", content).status == 201
    late = ask("/api/uploads?at=99", content)
    assert late.status == 422
    assert late.json == {"error": "this file lasts 4.0 s, at = 99 is not in"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"this is no video " * 50, "not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "this file cannot be used"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "this file cannot be used"),
        (b"", "it was empty"),
    ],
)
def test_hostile_files_are_refused_with_a_sentence(
    ask: Client, content: bytes, sentence: str
) -> None:
    answer = ask("/api/uploads", content)
    assert answer.status == 422
    assert sentence in answer.json["error"]
    assert "/tmp" not in answer.json["error"]


def test_a_file_that_is_too_large_or_too_long_is_refused(ask: Client, media) -> None:
    # refused by what is declared: nothing of the body need be sent
    connection = http.client.HTTPConnection(ask.url.removeprefix("http://"), timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/api/uploads")
        connection.putheader("content-length", str(2**20 + 1))
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
    assert found == (413, {"error": "the file is larger than 1 MB"})
    long = Path(media.video("long.mp4", ["-t", 4]))
    sound = media.path("long.ogg")
    media.run("-f", "lavfi", "-i", "sine=d=40:r=8000", "-ac", 1, sound)
    assert long.exists()
    assert ask("/api/uploads", sound.read_bytes()).json == {
        "error": "this file cannot be used: too long"
    }


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "terms: field required"),
        ({"terms": []}, "terms"),
        ({"terms": [{"kind": "smell", "value": "x"}]}, "terms.0.kind"),
        ({"terms": [{"kind": "text", "value": " "}]}, "text: empty"),
        ({"terms": [{"kind": "text", "value": "x", "weight": 2}]}, "weight"),
        ({"terms": [{"kind": "clip", "value": "gone@0-1"}]}, "no such clip"),
        ({"terms": [{"kind": "upload", "value": "gone"}]}, "no longer kept"),
        ({"terms": [{"kind": "text", "value": "x"}], "where": {"time": "b-a"}}, "time=b-a"),
        ({"terms": [{"kind": "text", "value": "x"}], "k": 101}, "k: "),
        ({"terms": [{"kind": "text", "value": "x" * 1001}]}, "1000"),
        (b"{", "json"),
    ],
)
def test_bad_queries_get_a_sentence(ask: Client, real: RealCorpus, body, sentence: str) -> None:
    answer = ask("/api/search", body, headers={"content-type": "application/json"})
    assert answer.status == 422
    assert sentence in answer.json["error"].lower()
    assert str(real.folder) not in answer.json["error"]
    assert "Traceback" not in answer.json["error"]
    assert "--" not in answer.json["error"]  # no options of a command


def test_two_terms_that_cancel_are_refused(ask: Client) -> None:
    assert "cancel" in ask.search(RED, ("clip", "red@0-2", -1)).json["error"]


def test_a_large_body_is_refused(ask: Client) -> None:
    assert ask("/api/search", b" " * 70_000).status == 413


@pytest.mark.parametrize(
    ("header", "status", "place"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-10", 206, slice(-10, None)),
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("bytes=5-2", 416, slice(0, 0)),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=x-y", 200, slice(None)),
    ],
)
def test_ranges_of_a_proxy(ask: Client, header: str, status: int, place: slice) -> None:
    whole = ask("/api/clips/red@0.000-2.000/media")
    part = ask("/api/clips/red@0.000-2.000/media", headers={"range": header})
    assert part.status == status
    assert part.body == whole.body[place]
    assert int(part.headers["content-length"]) == len(part.body)
    if status == 206:
        assert part.headers["content-range"].endswith(f"/{len(whole.body)}")


def test_a_sound_plays_as_a_cut_of_its_source_and_has_no_picture(ask: Client) -> None:
    """It has no proxy."""
    hit = ask.search(("clip", "tone@0-4", 1), k=1).json["hits"][0]
    assert hit["media"].endswith("/media")
    assert ask(hit["media"]).body[4:8] == b"ftyp"
    assert ask(hit["thumbnail"]).json == {"error": "no picture: sound only"}


def test_a_clip_by_its_id_is_as_the_hit_was(ask: Client) -> None:
    hit = ask.search(RED, k=1).json["hits"][0]
    found = ask(f"/api/clips/{hit['id']}").json
    assert found == {name: value for name, value in hit.items() if name not in ("rank", "score")}
    merged = ask("/api/clips/red@0-4").json
    assert (merged["start"], merged["end"]) == (0, 4)
    assert merged["text"] == "a red fire truck this was a red fire truck"
    unknown = ask("/api/clips/gone@0-2")
    assert (unknown.status, "no such clip" in unknown.json["error"]) == (422, True)


def test_a_source_that_is_gone_leaves_a_note(ask: Client, real: RealCorpus) -> None:
    source = real.videos / "tone.wav"
    source.rename(source.with_suffix(".aside"))
    try:
        hit = ask.search(("clip", "tone@0-4", 1), k=1).json["hits"][0]
        assert hit["media"] is None
        proxied = ask.search(RED, k=1).json["hits"][0]
        assert proxied["media"]
    finally:
        source.with_suffix(".aside").rename(source)


def test_the_map_has_every_clip_and_its_clusters_all_of_them(ask: Client) -> None:
    found = ask("/api/map").json
    assert len(found["points"]["id"]) == 10
    assert max(map(abs, found["points"]["x"] + found["points"]["y"])) == 1.0
    assert sum(cluster["size"] for cluster in found["clusters"]) == 10
    for cluster in found["clusters"]:
        assert sum(share["share"] for share in cluster["labels"]) == pytest.approx(1, abs=0.01)
    assert ask("/api/map?method=tsne").status == 422


def test_health_metrics_and_docs(ask: Client) -> None:
    assert ask("/health").json == {"status": "ok", "clips": 10}
    ask.search(RED)
    metrics = ask("/metrics").body.decode()
    assert 'search_requests_total{method="POST",route="/api/search",status="200"}' in metrics
    assert "search_batch_size_count" in metrics
    docs = ask("/docs").body.decode()
    assert "POST /api/search" in docs
    assert "Compare with clips" in docs


def test_nothing_is_loaded_from_outside(ask: Client) -> None:
    static = Path("index/static").resolve()
    paths = ["/", "/docs", *(f"/static/{file.name}" for file in static.iterdir())]
    assert len(paths) > 6
    for path in paths:
        answer = ask(path)
        assert answer.status == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert re.findall(rb"(?:https?:)?//[a-z0-9-]+\.[a-z]+", answer.body) == [], path


def test_another_host_name_and_another_sites_page_are_refused(ask: Client) -> None:
    assert ask("/", headers={"host": "evil.example"}).status == 400
    crossed = ask("/api/uploads", b"x", headers={"sec-fetch-site": "cross-site"})
    assert crossed.status == 403


def test_a_token_is_asked_for_and_a_cookie_stands_for_it(service: Service) -> None:
    with running(service, token="s3cret") as url:
        ask = Client(url)
        assert ask("/health").status == ask("/").status == 200
        assert ask("/api/index").status == ask("/metrics").status == 401
        assert ask("/api/index", headers={"authorization": "Bearer wrong"}).status == 401
        right = {"authorization": "Bearer s3cret"}
        assert ask("/api/index", headers=right).status == 200
        assert ask("/api/session", b"").status == 401
        cookie = ask("/api/session", b"", headers=right).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "s3cret" not in cookie
        assert ask("/api/index", headers={"cookie": cookie.partition(";")[0]}).status == 200
        assert ask("/api/index", headers={"cookie": "session=é"}).status == 401


def test_more_searches_than_may_wait_get_503(service: Service, monkeypatch) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(requests):
        entered.set()
        gate.wait(20)
        return [[] for _ in requests]

    monkeypatch.setattr(service, "search", slow)
    monkeypatch.setattr(service, "limits", dataclasses.replace(service.limits, waiting_searches=1))
    statuses: list[tuple[int, str | None]] = []

    def one() -> None:
        answer = Client(url).search(RED)
        statuses.append((answer.status, answer.headers.get("retry-after")))

    with running(service) as url:
        first = threading.Thread(target=one)
        first.start()
        assert entered.wait(20)
        second = threading.Thread(target=one)
        second.start()
        while 'search_waiting{queue="searches"} 1.0' not in Client(url)("/metrics").body.decode():
            pass
        one()
        assert statuses == [(503, "1")]
        gate.set()
        first.join()
        second.join()
    assert statuses[1:] == [(200, None), (200, None)]


def test_searches_that_come_together_go_together(service: Service, monkeypatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(service, "on_batch", sizes.append)
    with running(service) as url:
        asked = [
            threading.Thread(target=Client(url).search, args=(("text", f"word {i}", 1),))
            for i in range(12)
        ]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
    assert sum(sizes) == 12
    assert max(sizes) > 1


def test_a_batch_gives_what_each_search_gives_alone(service: Service) -> None:
    from index.queries import Term
    from index.serving.service import SearchRequest

    requests = [
        SearchRequest((Term("text", "blue sea"),), 3),
        SearchRequest((Term("text", "snow"), Term("clip", "red@0-2", -1.0)), 5),
        SearchRequest((Term("clip", "gone@0-2"),), 5),
        SearchRequest((Term("clip", "red@0-2"),), 2, where=(("label", "g"),)),
        SearchRequest((Term("text", "blue sea"),), 2, merge=True),
        SearchRequest((Term("text", "blue sea"),), 9, merge=True),
    ]
    together = service.search(requests)
    for one, request in zip(together, requests, strict=True):
        (alone,) = service.search([request])
        if isinstance(alone, list):
            assert [hit.id for hit in one] == [hit.id for hit in alone]
            assert len(one) <= request.k
        else:
            assert str(one) == str(alone)


def test_the_schema_is_openapi(service: Service) -> None:
    schema = create_app(service, Metrics()).openapi()
    assert json.loads(json.dumps(schema))["openapi"].startswith("3.")
    assert {"/api/search", "/api/uploads", "/api/map", "/health"} <= schema["paths"].keys()
