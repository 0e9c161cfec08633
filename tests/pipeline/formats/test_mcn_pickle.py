import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from pipeline.dataset import read_all_rows
from pipeline.formats.choice import Reading
from pipeline.samples import VideoSample
from pipeline.verify import verify_dataset
from tests.pipeline.formats.conftest import assert_same_tracks

TRUST = Reading(trust_pickle=True)


def read_as_mcn(item: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture and 5 x 1024 frames of sound, as MCN's YouCook2 loader makes them of an item."""
    parts = [
        torch.nn.functional.normalize(torch.from_numpy(item[name]).float(), dim=0)
        for name in ("2d", "3d")
    ]
    audio = item["audio"]
    missing = 5 * 1024 - audio.numpy().shape[1]
    audio = np.pad(audio, ((0, 0), (0, missing)), "constant", constant_values=(0, 0))
    return torch.cat(parts), torch.FloatTensor(audio)


def test_the_official_reader_gets_clips(export: Callable, samples: list[VideoSample]) -> None:
    root, _ = export("mcn-pickle")
    items = pickle.loads((root / "youcook2.pickle").read_bytes())
    assert type(items) is list
    assert [item["id"] for item in items] == [
        f"{sample.key}_{number:04d}" for sample in samples[:3] for number in range(2)
    ]
    picture, sound = read_as_mcn(items[1])
    assert (picture.shape, sound.shape) == ((4096,), (40, 5120))
    assert picture.norm() == pytest.approx(2**0.5, rel=1e-5)
    clip = samples[0].tracks["visual_2d"].between(2.0, 4.5)
    np.testing.assert_array_equal(items[1]["2d"], clip.max(axis=0).astype(np.float32))
    np.testing.assert_array_equal(items[1]["2d_full"], clip)
    sound = samples[0].tracks["audio"].rows[200:450].T
    np.testing.assert_array_equal(items[1]["audio"].numpy(), sound)
    assert items[1]["caption"] == "two"
    assert read_as_mcn(items[2])[1].abs().sum() == 0  # silent
    assert items[4]["2d"].shape == (2048,)  # no picture
    assert not items[4]["2d"].any()


def test_round_trip_of_videos(
    export: Callable, bring: Callable, samples: list[VideoSample]
) -> None:
    """Whole videos: rows to the bit, times to a millisecond by the layout's fixed rates."""
    root, made = export("mcn-pickle", items="msrvtt")
    assert list(made.finished) == ["msrvtt.pickle"]
    assert not list((root / ".export").glob("*.part"))
    target, found = bring("mcn-pickle", root / "msrvtt.pickle", TRUST)
    assert verify_dataset(target) == []
    assert_same_tracks(found, samples, within=1e-3)
    assert [sample.duration for sample in found] == [6.0, 5.0, 4.0, 3.0]
    texts = [[segment.text for segment in sample.segments] for sample in found]
    assert texts == [[segment.text for segment in sample.segments] for sample in samples]


def test_round_trip_of_clips(export: Callable, bring: Callable, samples: list[VideoSample]) -> None:
    """A clip comes back as a video of its own: its rows, its caption, its length."""
    root, _ = export("mcn-pickle")
    _, found = bring("mcn-pickle", root / "youcook2.pickle", TRUST)
    assert len(found) == 6
    rows = samples[0].tracks["visual_3d"].between(2.0, 4.5)
    np.testing.assert_array_equal(found[1].tracks["visual_3d"].rows, rows)
    assert found[1].duration == 2.5
    (said,) = found[1].segments
    assert (said.start, said.end, said.text) == (0.0, 2.5, "two")


def test_items_of_others(bring: Callable, tmp_path: Path) -> None:
    """Pooled features, tensors as in LSMDC, classes and splits as in UCF101, an id twice."""
    rng = np.random.default_rng(1)
    wide, mels = rng.normal(size=64).astype(np.float32), rng.normal(size=(40, 250))
    pooled = {"2d": wide, "3d": torch.from_numpy(wide)}
    items = [
        pooled | {"id": "clip.1", "audio": torch.from_numpy(mels), "caption": "hello"},
        pooled | {"id": "again", "audio": torch.zeros(40, 9), "has_audio": False},
        pooled | {"video": "again", "audio": mels, "class": "Archery", "training": 0},
        {"id": "no_3d", "2d": wide, "audio": mels},
    ]
    (tmp_path / "set.pickle").write_bytes(pickle.dumps(items))
    target, found = bring("mcn-pickle", tmp_path / "set.pickle", TRUST)
    one, silent, again = found
    assert one.duration == pytest.approx(2.49)  # 250 frames, the first at 0 s
    assert one.tracks["visual_2d"].rows.shape == (1, 64)
    assert len(one.tracks["visual_2d"].between(0, 2.49)) == 1
    np.testing.assert_array_equal(one.tracks["audio"].rows, mels.T.astype(np.float16))
    assert "audio" not in silent.tracks
    assert (again.key, again.meta["label"], again.meta["split"]) == ("again-2", "Archery", "test")
    (failed,) = (row for row in read_all_rows(target) if row["status"] == "failed")
    assert (failed["key"], failed["reason"]) == ("no_3d", "not_found")
    assert "has no '3d'; leave it out with --track 3d=" in failed["error_message"]


def test_nothing_else_is_unpickled(bring: Callable, tmp_path: Path) -> None:
    path = tmp_path / "set.pickle"
    path.write_bytes(pickle.dumps([{"id": "x", "2d": Path("x")}]))
    with pytest.raises(UsageError, match="--trust-pickle"):
        bring("mcn-pickle", path)
    with pytest.raises(UsageError, match="asks for pathlib"):
        bring("mcn-pickle", path, TRUST)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UsageError, match="a list of dicts is wanted, got dict"):
        bring("mcn-pickle", path, TRUST)
    assert not (tmp_path / "imported").exists()
