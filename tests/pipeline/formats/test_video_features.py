from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import UsageError
from pipeline.dataset import read_all_rows
from pipeline.formats.choice import Reading
from pipeline.samples import VideoSample
from pipeline.verify import verify_dataset
from tests.pipeline.formats.conftest import assert_same_tracks

ALL = {"resnet": "visual_2d", "r21d": "visual_3d", "audio": "audio"}


def test_round_trip(export: Callable, bring: Callable, samples: list[VideoSample]) -> None:
    """Times are in the files: to a microsecond."""
    root, _ = export("video-features")
    key = samples[0].key
    np.testing.assert_allclose(
        np.load(root / "resnet" / f"{key}_timestamps_ms.npy"), 500 + 1000 * np.arange(6)
    )
    assert np.load(root / "r21d" / f"{key}_fps.npy") == pytest.approx(1.5)
    assert np.load(root / "r21d" / f"{key}_r21d.npy").shape == (9, 2048)
    captions = root / "captions"
    captions.mkdir()
    (captions / f"{key}.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\nhello\n")
    target, found = bring("video-features", root, Reading(tracks=ALL, captions=str(captions)))
    assert verify_dataset(target) == []
    assert_same_tracks(found, samples, within=1e-6)
    (said,) = found[0].segments
    assert (said.start, said.end, said.text) == (1.0, 2.5, "hello")


def test_files_of_that_program(bring: Callable, tmp_path: Path) -> None:
    """resnet has timestamps of its own frames; vggish and r21d have none: a hop is to be given."""
    root = tmp_path / "out"
    rng = np.random.default_rng(5)
    for folder in ("resnet/resnet152", "vggish"):
        (root / folder).mkdir(parents=True)
    rows = rng.normal(size=(50, 16)).astype(np.float32)
    np.save(root / "resnet/resnet152/v_one_resnet.npy", rows)
    np.save(root / "resnet/resnet152/v_one_fps.npy", np.array(25.0))
    np.save(root / "resnet/resnet152/v_one_timestamps_ms.npy", np.arange(50) * 40.0)
    np.save(root / "vggish/v_one_vggish.npy", rng.normal(size=(3, 128)).astype(np.float32))
    np.save(root / "vggish/v_two_vggish.npy", rng.normal(size=(3, 128)).astype(np.float32))
    tracks = {"resnet": "visual_2d", "vggish": "vggish"}
    with pytest.raises(UsageError, match="--hop vggish=SECONDS"):
        bring("video-features", root, Reading(tracks=tracks))
    reading = Reading(tracks=tracks, hops={"vggish": 0.96})
    target, (one,) = bring("video-features", root, reading)
    assert (one.tracks["visual_2d"].start, one.tracks["visual_2d"].hop) == (0.0, 0.04)
    assert (one.tracks["vggish"].start, one.tracks["vggish"].hop) == (0.48, 0.96)
    np.testing.assert_array_equal(one.tracks["visual_2d"].rows, rows.astype(np.float16))
    (failed,) = (row for row in read_all_rows(target) if row["status"] == "failed")
    assert "has no v_two_resnet.npy" in failed["error_message"]


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        ([0, 40, 80], "2 times are wanted"),
        ([40, 0], "not evenly spaced"),
        ([0, float("nan")], "2 times are wanted"),
    ],
)
def test_bad_timestamps(bring: Callable, tmp_path: Path, stamps: list[float], message: str) -> None:
    np.save(tmp_path / "a_clip.npy", np.zeros((2, 4), np.float32))
    np.save(tmp_path / "a_timestamps_ms.npy", np.array(stamps))
    with pytest.raises(UsageError, match=message):
        bring("video-features", tmp_path, Reading(tracks={"clip": "visual_2d"}))


def test_names_that_collide(bring: Callable, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "v_clip.npy", np.zeros((2, 4), np.float32))
    with pytest.raises(UsageError, match=r"v_clip\.npy is there twice"):
        bring("video-features", tmp_path, Reading(tracks={"clip": "visual_2d"}))
    with pytest.raises(UsageError, match=r"holds no \*_resnet.npy, \*_r21d.npy"):
        bring("video-features", tmp_path)
