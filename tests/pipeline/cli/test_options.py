from pathlib import Path

import pytest
import torch

from extractors.errors import UsageError
from pipeline.cli.options import choose_device, load_config, pairs, preset_names, preset_text


def test_the_presets() -> None:
    assert {"embedded", "reference"} <= set(preset_names())
    assert set(load_config("embedded", None, None).extract.wanted) == {
        "visual_2d", "visual_3d", "audio",
    }  # fmt: skip
    with pytest.raises(UsageError, match="--preset big: no such preset; there are: embedded, "):
        preset_text("big")


def test_a_file_over_the_preset_and_set_over_both(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("extract: {threads: 3, videos_per_shard: 5}")
    loaded = load_config("embedded", path, ["extract.threads=4"]).extract
    assert (loaded.threads, loaded.videos_per_shard) == (4, 5)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--config .*c\.yaml"):
        load_config("embedded", path, None)


def test_the_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="--device tpu: allowed are auto, cpu and cuda"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_cuda_where_there_is_none() -> None:
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="--device cuda: torch finds no CUDA device"):
        choose_device("cuda")


def test_pairs() -> None:
    given = ["img=video", "year=2020=text"]
    assert pairs("--vectors", given) == {"img": "video", "year=2020": "text"}
    assert pairs("--vectors", None) == {}
    assert pairs("--track", ["3d="], may_be_empty=True) == {"3d": ""}
    for wrong in (["img"], ["=video"], ["img="], ["img=video", "img=text"]):
        with pytest.raises(UsageError, match=f"--vectors {wrong[-1]}: NAME=VALUE is wanted"):
            pairs("--vectors", wrong)
