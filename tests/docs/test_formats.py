"""What docs/formats.md says of files is what the program writes, to the byte."""

import io
import json
import math
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from extractors.xdc_config import VideoEncoderConfig
from extractors.xdc_encoder_file import ABOUT, encoder_bytes
from extractors.xdc_networks import VideoEncoder
from pipeline.lease import Lease
from tests.docs import pages
from tests.index.real_corpus import RealCorpus

TABLES = {heading: rows for heading, rows in pages.tables("formats.md")}
Load = Callable[[Path], Any]

JSON_FILES = {
    "Shard: `shards/000000_stats.json`": "dataset/shards/000000_stats.json",
    "`dataset.json`": "dataset/dataset.json",
    "Run: `card.json`": "run/card.json",
    "Index: `embeddings/000000_stats.json`": "index/embeddings/000000_stats.json",
    "Index: `index_infos.json`": "index/index_infos.json",
}
PARQUET_FILES = {
    "Shard: `shards/000000.parquet`": "dataset/shards/000000.parquet",
    "`plan.parquet`": "dataset/plan.parquet",
    "Index: `embeddings/000000.parquet`": "index/embeddings/000000.parquet",
}
TYPES = {
    "integer": int,
    "number": (int, float),
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
    "null": type(None),
}


@pytest.fixture(scope="module")
def out(real: RealCorpus) -> Path:
    """Holds dataset, run and index."""
    return Path(real.index).parent


@pytest.fixture(scope="module")
def sample(out: Path) -> dict[str, bytes]:
    """The members of one video that has sound and captions, by extension."""
    with tarfile.open(out / "dataset" / "shards" / "000000.tar") as tar:
        members = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        spoken = next(name.partition(".")[0] for name in members if name.startswith("blue"))
        return {
            name.partition(".")[2]: file.read()
            for name, file in members.items()
            if file is not None and name.startswith(f"{spoken}.")
        }


def check_fields(heading: str, content: dict[str, Any]) -> None:
    """The documented keys are those of the file, and each value is of a documented type."""
    documented = {pages.code(row["key"]): row["type"] for row in TABLES[heading]}
    assert list(content) == list(documented) or set(content) == set(documented)
    for key, kinds in documented.items():
        allowed = tuple(TYPES[kind] for kind in kinds.split(" or "))
        assert any(isinstance(content[key], kind) for kind in allowed), f"{key}: {content[key]!r}"


@pytest.mark.parametrize(("heading", "file"), JSON_FILES.items())
def test_json_files(heading: str, file: str, out: Path) -> None:
    check_fields(heading, json.loads((out / file).read_text(encoding="utf-8")))


def shown(kind: pa.DataType) -> str:
    """A type as the page writes it."""
    if pa.types.is_fixed_size_list(kind):
        return f"fixed_size_list<{kind.value_type}>[D]"
    if pa.types.is_map(kind):
        return f"map<{kind.key_type}, {kind.item_type}>"
    return str(kind)


def columns(path: Path) -> dict[str, str]:
    """Name to type, in order."""
    return {field.name: shown(field.type) for field in pq.read_schema(path)}


@pytest.mark.parametrize(("heading", "file"), PARQUET_FILES.items())
def test_parquet_files(heading: str, file: str, out: Path) -> None:
    documented = {pages.code(row["column"]): pages.code(row["type"]) for row in TABLES[heading]}
    assert list(documented.items()) == list(columns(out / file).items())


def test_derived_tables(out: Path) -> None:
    rows = columns(out / "dataset" / "shards" / "000000.parquet")
    manifest = columns(out / "dataset" / "manifest.parquet")
    assert manifest == rows | {"shard": "int32", "tar_sha256": "string"}
    assert b"records" in pq.read_schema(out / "dataset" / "manifest.parquet").metadata
    ids = columns(out / "index" / "ids.parquet")
    clips = columns(out / "index" / "embeddings" / "000000.parquet")
    assert list(ids.items()) == list(clips.items())[:9]


def test_the_tar(out: Path) -> None:
    content = (out / "dataset" / "shards" / "000000.tar").read_bytes()
    assert len(content) % 10_240 == 0
    for row in TABLES["Shard: the tar"]:
        offset, count = int(row["offset"]), int(row["bytes"])
        field = content[offset : offset + count]
        words = re.findall(r"`([^`]+)`", row["value"])
        if row["field"] == "name":
            key, _, extension = field.rstrip(b"\0").decode().partition(".")
            assert key
            assert extension
        elif row["field"] == "magic":
            assert field == b"ustar\x0000"
        elif row["field"] == "size":
            assert int(field.rstrip(b"\0"), 8) > 0
        else:
            assert field.rstrip(b"\0 ").decode() == words[0], row["field"]


def test_members(out: Path, sample: dict[str, bytes]) -> None:
    card = json.loads((out / "dataset" / "dataset.json").read_text(encoding="utf-8"))
    documented = {pages.code(row["member"]) for row in TABLES["Members of a sample"]}
    tracks = {f"{name}.npy" for name in card["tracks"]}
    optional = {"text_offsets.npy"}  # of word vectors
    assert set(sample) - tracks == documented - {"TRACK.npy"} - optional
    for name, facts in card["tracks"].items():
        rows = np.load(io.BytesIO(sample[f"{name}.npy"]), allow_pickle=False)
        assert (rows.dtype.name, rows.shape[1]) == (facts["dtype"], facts["dim"])
    text = np.load(io.BytesIO(sample["text.npy"]), allow_pickle=False)
    assert text.dtype == np.float16
    assert len(text) == len(json.loads(sample["transcript.json"]))


def test_npy(sample: dict[str, bytes]) -> None:
    content = sample["audio.npy"]
    assert content[:6] == bytes.fromhex("934E554D5059")
    assert content[6:8] == b"\x01\x00"
    assert struct.unpack("<H", content[8:10]) == (118,)
    header = content[10:128].decode()
    found = re.fullmatch(
        r"\{'descr': '<f2', 'fortran_order': False, 'shape': \((\d+), (\d+)\), \} *\n", header
    )
    assert found
    assert len(content) == 128 + 2 * math.prod(map(int, found.groups()))


def test_transcript_and_meta(sample: dict[str, bytes]) -> None:
    check_fields("transcript.json", json.loads(sample["transcript.json"])[0])
    meta = json.loads(sample["meta.json"])
    proxy = meta.pop("proxy")
    assert set(proxy) == {"rate", "absent"}
    check_fields("meta.json", meta)
    facts = next(iter(meta["tracks"].values()))
    assert set(facts) == {"start", "hop", "rows", "dim", "dtype", "absent"}
    assert all("fingerprint" in made for made in meta["provenance"].values())


def test_the_lease() -> None:
    text = pages.read("formats.md").partition("## `run.json`")[2].partition("## ")[0]
    assert re.findall(r"`(\w+)`", text) == list(Lease.__dataclass_fields__)


def test_checkpoint(out: Path) -> None:
    card = json.loads((out / "run" / "card.json").read_text(encoding="utf-8"))
    path = out / "run" / "checkpoints" / card["checkpoint"]
    state = torch.load(path, weights_only=True)
    heading = "Run: `checkpoints/step_00000040.pt`"
    documented = {pages.code(row["key"]): row["holds"] for row in TABLES[heading]}
    assert list(documented) == list(state)
    prefixes = {name.removesuffix(".*") for name in re.findall(r"`([^`]+)`", documented["model"])}
    assert {name.partition(".")[0] for name in state["model"]} == prefixes


def test_encoder_file() -> None:
    config = VideoEncoderConfig(widths=(4, 8), blocks=(1, 1), size=16)
    content = encoder_bytes(VideoEncoder(config), config)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert set(json.loads(header.pop("__metadata__")[ABOUT])) == {"format", "modality", "about"}
    assert ABOUT in pages.read("formats.md")
    assert all(set(one) == {"dtype", "shape", "data_offsets"} for one in header.values())
    assert 8 + length + max(one["data_offsets"][1] for one in header.values()) == len(content)


def test_knn_index(out: Path) -> None:
    """A Flat index: FAISS writes it, the page says how."""
    content = (out / "index" / "knn.index").read_bytes()
    table = TABLES["Index: `knn.index`"]
    offsets = [int(row["offset"]) for row in table]
    assert [offsets[0], *offsets[1:]] == [0, 4, 8, 16, 32, 33, 37, 45]
    kind, dim, count, _, _, trained, metric, floats = struct.unpack("<4siqqqBiq", content[:45])
    card = json.loads((out / "index" / "index_infos.json").read_text(encoding="utf-8"))
    assert (kind, trained, metric) == (b"IxFI", 1, 0)
    assert (dim, count) == (card["vectors dimension"], card["nb vectors"])
    assert floats == dim * count
    assert len(content) == 45 + 4 * floats
    first = np.frombuffer(content[45 : 45 + 4 * dim], "<f4")
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-6)  # float32
