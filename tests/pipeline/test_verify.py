import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from extractors.config import MeanColourConfig
from extractors.decode_config import ProxyConfig
from extractors.errors import AbortError, UsageError
from pipeline.config import ExtractConfig
from pipeline.dataset import read_records, write_dataset_card, write_manifest
from pipeline.samples import write_tar
from pipeline.shards import sha256_of
from pipeline.verify import verify_dataset
from tests.pipeline.conftest import numbered_copies
from tests.pipeline.test_extract import extract


@pytest.fixture(scope="module")
def made(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards."""
    folder = tmp_path_factory.mktemp("verify")
    numbered_copies(clip, folder / "videos", 3)
    config = ExtractConfig(
        videos_per_shard=2, extractors={"colour": MeanColourConfig()}, speech=None, text=None
    )
    extract(str(folder / "videos"), str(folder / "d"), config)
    return folder / "d"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "d"))


def test_a_dataset_as_it_was_made_has_no_problems(dataset: Path) -> None:
    assert verify_dataset(str(dataset)) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def restamp(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


SPOILS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "tampered tar": (
        lambda d: flip(d / "shards/000001.tar"),
        ["shards/000001.tar: sha256 is ", "its record says "],
    ),
    "tampered parquet": (
        lambda d: flip(d / "shards/000000.parquet"),
        ["shards/000000.parquet: sha256 is "],
    ),
    "missing tar": (
        lambda d: (d / "shards/000000.tar").unlink(),
        ["shards/000000.tar: missing"],
    ),
    "missing parquet": (
        lambda d: (d / "shards/000000.parquet").unlink(),
        ["shards/000000.parquet: missing"],
    ),
    "missing shard": (
        lambda d: (d / "shards/000001_stats.json").unlink(),
        ["shard 000001: planned, not made yet"],
    ),
    "missing manifest": (
        lambda d: (d / "manifest.parquet").unlink(),
        ["manifest.parquet: missing"],
    ),
    "broken manifest": (
        lambda d: (d / "manifest.parquet").write_bytes(b"text"),
        ["manifest.parquet: cannot be read"],
    ),
    "stale manifest": (
        lambda d: pq.write_table(
            pq.read_table(d / "manifest.parquet").slice(1), d / "manifest.parquet"
        ),
        ["manifest.parquet: does not list"],
    ),
    "other settings": (
        lambda d: write_dataset_card(str(d), ExtractConfig(speech=None)),
        ["shard 000000: made of other videos or settings"],
    ),
    "another count": (
        lambda d: restamp(d / "shards/000000_stats.json", count=7),
        ["shard 000000: its tar, parquet and record list different videos"],
    ),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_dataset_is_told_apart(dataset: Path, name: str) -> None:
    spoil, expected = SPOILS[name]
    spoil(dataset)
    problems = verify_dataset(str(dataset))
    assert all("\n" not in problem for problem in problems)
    assert all(text in problems[0] for text in expected)
    assert len(problems) == (2 if name == "other settings" else 1)


def test_a_tar_whose_content_differs_from_its_rows(dataset: Path) -> None:
    tar, other = dataset / "shards/000000.tar", dataset / "shards/000001.tar"
    shutil.copy(other, tar)
    digest = json.loads((dataset / "shards/000001_stats.json").read_text())["tar_sha256"]
    restamp(dataset / "shards/000000_stats.json", tar_sha256=digest)
    (problem,) = verify_dataset(str(dataset))
    assert "different videos" in problem


def test_a_cut_tar_is_told_in_one_line(dataset: Path) -> None:
    tar = dataset / "shards/000000.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    restamp(dataset / "shards/000000_stats.json", tar_sha256=sha256_of(tar))
    (problem,) = verify_dataset(str(dataset))
    assert "000000" in problem
    assert "\n" not in problem


def test_leftovers_of_a_killed_run_are_no_problem(dataset: Path) -> None:
    (dataset / "shards/.000002.tar.abc.partial").write_bytes(b"half")
    assert verify_dataset(str(dataset)) == []


def test_what_is_no_dataset(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(UsageError, match="not a dataset"):
        verify_dataset(str(tmp_path))
    (dataset / "dataset.json").write_text("{")
    with pytest.raises(AbortError, match=r"dataset\.json: not JSON"):
        verify_dataset(str(dataset))


def rewrite(
    dataset: Path, change: Callable[[dict[str, bytes]], None], key: str = "clip000"
) -> None:
    """Spoils the members of one video; tar, record and manifest agree afterwards."""
    tar = dataset / "shards/000000.tar"
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as stored:
        for member in stored:
            found, _, extension = member.name.partition(".")
            content = stored.extractfile(member)
            assert content is not None
            samples.setdefault(found, {})[extension] = content.read()
    change(samples[key])
    write_tar(tar, samples.items())
    restamp(dataset / "shards/000000_stats.json", tar_sha256=sha256_of(tar))
    write_manifest(str(dataset), read_records(str(dataset)))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_meta(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["meta.json"] = json.dumps(json.loads(members["meta.json"]) | changes).encode()

    return change


def with_segments(*segments: dict[str, object]) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({"transcript.json": json.dumps(segments).encode()})


def segment(start: float, end: float) -> dict[str, object]:
    return {"start": start, "end": end, "text": "a", "source": "captions"}


def with_member(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


NOT_A_NUMBER = np.array([[0.5, 0.5, np.nan]], np.float32)
DEEP: dict[str, tuple[Callable[[dict[str, bytes]], None], list[str]]] = {
    "shape": (
        with_member("colour.npy", npy(np.zeros((7, 3), np.float32))),
        ["colour.npy is (7, 3), meta.json says (1, 3)", "has 7 rows, the parquet says 1"],
    ),
    "dtype": (
        with_member("colour.npy", npy(np.zeros((1, 3), np.float64))),
        ["colour.npy is float64, meta.json says float32"],
    ),
    "not finite": (
        with_member("colour.npy", npy(NOT_A_NUMBER)),
        ["colour.npy: 1 rows that are not finite, the first is row 0"],
    ),
    "not an array": (with_member("colour.npy", b"text"), ["colour.npy or its facts cannot be"]),
    "a pickle": (
        with_member("colour.npy", b"\x80\x04N."),
        ["colour.npy or its facts cannot be read"],
    ),
    "no track": (lambda members: members.pop("colour.npy"), ["no member colour.npy"]),
    "a stranger": (with_member("more.npy", b""), ["member more.npy, of which meta.json knows"]),
    "content id": (
        with_meta(content_id="x"),
        ["content_id 'x' is no sha256", "says content_id 'x', the parquet '"],
    ),
    "label": (with_meta(label="cat"), ["meta.json says label 'cat', the parquet None"]),
    "duration": (with_meta(duration=99.0), ["meta.json says duration 99.0, the parquet 1.0"]),
    "meta": (with_member("meta.json", b"[]"), ["meta.json or transcript.json is not"]),
    "segments": (
        with_segments(segment(0, 1)),
        ["1 segments in transcript.json, the parquet says 0"],
    ),
    "times": (
        with_segments(segment(2, 1)),
        ["1 segments in transcript.json", "segment 0 lasts from 2 to 1 s"],
    ),
    "text": (
        with_member("text.npy", npy(np.zeros((2, 4), np.float16))),
        ["text.npy has 2 rows for 0 segments"],
    ),
    "unknown proxy": (with_member("proxy.mp4", b""), ["a proxy.mp4, of which meta.json knows"]),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_opens_every_member(dataset: Path, name: str) -> None:
    change, expected = DEEP[name]
    rewrite(dataset, change)
    assert verify_dataset(str(dataset)) == []  # the digests are right: --deep is what it takes
    problems = verify_dataset(str(dataset), deep=True)
    assert len(problems) == len(expected)
    for problem, text in zip(problems, expected, strict=True):
        assert "shards/000000.tar: clip000: " in problem
        assert text in problem


def test_deep_finds_nothing_wrong_with_what_is_right(dataset: Path) -> None:
    assert verify_dataset(str(dataset), deep=True) == []


def test_proxies_are_opened(clip: Path, tmp_path: Path) -> None:
    numbered_copies(clip, tmp_path / "videos", 1)
    config = ExtractConfig(
        extractors={"colour": MeanColourConfig()}, speech=None, text=None, proxy=ProxyConfig()
    )
    dataset = tmp_path / "d"
    extract(str(tmp_path / "videos"), str(dataset), config)
    assert verify_dataset(str(dataset), deep=True) == []
    rewrite(dataset, with_meta(proxy={"rate": 25.0, "absent": ""}))
    (problem,) = verify_dataset(str(dataset), deep=True)
    assert "proxy.mp4 has 12 frames/s, meta.json says 25" in problem
    rewrite(dataset, with_member("proxy.mp4", b"no video"))
    (problem,) = verify_dataset(str(dataset), deep=True)
    assert "proxy.mp4 cannot be read as a proxy" in problem
    rewrite(dataset, with_member("proxy.mp4", b""))
    (problem,) = verify_dataset(str(dataset), deep=True)
    assert "proxy.mp4 is empty, and meta.json does not say why" in problem


def unsafe(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (unsafe("/etc/x.npy"), "member '/etc/x.npy': a path"),
        (unsafe("../clip.a.npy"), "member '../clip.a.npy': a path"),
        (unsafe("clip.a.npy", tarfile.SYMTYPE, "/etc/passwd"), "a link to '/etc/passwd'"),
        (unsafe("clip.a.npy", tarfile.LNKTYPE, "clip000"), "a link to 'clip000'"),
        (unsafe("clip.a.npy", tarfile.CHRTYPE), "neither a file"),
        (unsafe("clip.a.npy", tarfile.FIFOTYPE), "neither a file"),
        (unsafe("folder", tarfile.DIRTYPE), "neither a file"),
        (unsafe("clip.exe"), "not named KEY.NAME.npy"),
        (unsafe("a b.meta.json"), "key 'a b': only letters"),
        (unsafe("clip000.a.npy"), "clip000: its members are not adjacent"),
        (unsafe("clip001.a.npy"), "clip001: its members are not sorted"),
    ],
)
def test_members_that_could_do_harm_are_told(
    dataset: Path, member: tarfile.TarInfo, message: str
) -> None:
    tar = dataset / "shards/000000.tar"
    with tarfile.open(tar, "a") as stored:
        stored.addfile(member)
    restamp(dataset / "shards/000000_stats.json", tar_sha256=sha256_of(tar))
    assert any(message in problem for problem in verify_dataset(str(dataset)))


def test_every_byte_of_the_tars_is_read_once(dataset: Path) -> None:
    read: list[int] = []
    verify_dataset(str(dataset), deep=True, on_bytes=read.append)
    assert sum(read) == sum(tar.stat().st_size for tar in dataset.glob("shards/*.tar"))


def test_a_key_in_two_shards(dataset: Path) -> None:
    for suffix in (".tar", ".parquet", "_stats.json"):
        shutil.copy(dataset / f"shards/000000{suffix}", dataset / f"shards/000007{suffix}")
    restamp(dataset / "shards/000007_stats.json", number=7)
    problems = verify_dataset(str(dataset))
    assert "key 'clip000': there twice, in shard 000000 and shard 000007" in problems
    assert any("shard 000007: the plan knows no such shard" in problem for problem in problems)
