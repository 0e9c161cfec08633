import csv
import json
import pickle
import shutil
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


def read_as_mcn(root: Path, path: str, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """(4096,) picture and (40, frames) sound of a clip, indexed as MCN's data loader does."""
    name = path.replace("None/", "").split("/")[-1]
    pooled = []
    for feature, rate in (("2d", 1.0), ("3d", 24.0 / 16.0)):
        array = np.load(root / path / f"{name}_{feature}.npz")["features"].astype(np.float32)
        rows = array[int(start * rate) : int(end * rate) + 1]
        best = rows.max(axis=0) if len(rows) else np.zeros(array.shape[-1], np.float32)
        pooled.append(best / max(np.linalg.norm(best), 1e-12))
    mels = np.load(root / path / f"{name}_spec.npz")["arr_0"]
    assert mels.dtype == np.float16  # goes into a HalfTensor
    first, last = (max(0, int((t * 16000 - 200) // 160)) for t in (start, end))
    return np.concatenate(pooled), mels[:, first:last]


def test_the_official_reader_gets_its_arrays(export: Callable, samples: list[VideoSample]) -> None:
    root, _ = export("howto100m")
    with (root / "videos.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [f"food/{sample.key}" for sample in samples[:3]]
    captions = pickle.loads((root / "caption.pickle").read_bytes())
    for path, sample in zip(paths, samples, strict=False):
        said = captions[path.split("/")[-1]]
        assert said == {
            "start": [0.25, 2.0], "end": [2.0, 4.5], "text": [s.text for s in sample.segments]
        }  # fmt: skip
        picture, sound = read_as_mcn(root, path, said["start"][1], said["end"][1])
        assert picture.shape == (4096,)
        if "visual_2d" in sample.tracks:
            best = sample.tracks["visual_2d"].rows[2:5].astype(np.float32).max(axis=0)
            np.testing.assert_allclose(picture[:2048], best / np.linalg.norm(best), rtol=1e-6)
            best = sample.tracks["visual_3d"].rows[3:7].astype(np.float32).max(axis=0)
            np.testing.assert_allclose(picture[2048:], best / np.linalg.norm(best), rtol=1e-6)
        else:
            assert not picture.any()
        if "audio" in sample.tracks:
            wanted = sample.tracks["audio"].rows[198:448].T  # half a window early, as librosa
            np.testing.assert_array_equal(sound, wanted[:, : sound.shape[1]])
        else:
            assert sound.shape == (40, 0)
    assert json.loads((root / "caption.json").read_text()) == captions
    silent = (root / "videos_without_captions.csv").read_text().split()
    assert silent == ["path", f"food/{samples[3].key}"]


@pytest.mark.parametrize("captions", ["caption.json", "caption.pickle", "folder"])
def test_round_trip(
    export: Callable, bring: Callable, samples: list[VideoSample], captions: str, tmp_path: Path
) -> None:
    """Times come from the layout's fixed rates: within a millisecond a row of 2/3 s."""
    root, _ = export("howto100m")
    where = str(root / captions)
    if captions == "folder":
        (tmp_path / "folder").mkdir()
        for key, said in json.loads((root / "caption.json").read_text()).items():
            (tmp_path / "folder" / f"{key}.json").write_text(json.dumps(said))
        where = str(tmp_path / "folder")
    target, found = bring("howto100m", root, Reading(captions=where, trust_pickle=True))
    assert verify_dataset(target) == []
    assert_same_tracks(found, samples, within=1e-3)
    for sample, other in zip(samples, found, strict=True):
        said = [(s.start, s.end, s.text) for s in sample.segments]
        assert [(s.start, s.end, s.text) for s in other.segments] == said
        # the finest track says how long: to a row of it
        assert other.duration == pytest.approx(sample.duration, abs=0.67)
    assert found[0].duration == pytest.approx(samples[0].duration, abs=0.01)


def test_a_pickle_of_captions_needs_trust(export: Callable, bring: Callable, tmp_path: Path
                                          ) -> None:  # fmt: skip
    root, _ = export("howto100m")
    (root / "caption.json").unlink()
    with pytest.raises(UsageError, match="--trust-pickle"):
        bring("howto100m", root)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "not a JSON object of videos"), ('{"a": {"start"', "not a JSON object")],
)
def test_captions_that_are_none(
    export: Callable, bring: Callable, tmp_path: Path, content: str, message: str
) -> None:
    root, _ = export("howto100m")
    (root / "caption.json").write_text(content)
    with pytest.raises(UsageError, match=rf"caption\.json: {message}"):
        bring("howto100m", root)
    assert not (tmp_path / "imported").exists()


def test_lists_of_others_and_videos_that_fail(
    export: Callable, bring: Callable, samples: list[VideoSample], tmp_path: Path
) -> None:
    """`None/` before a path; sound in a folder of its own; files missing, cut, of other shapes."""
    root, _ = export("howto100m")
    paths = [f"food/{sample.key}" for sample in samples]
    for path in paths:
        name = path.rpartition("/")[2]
        (tmp_path / "sound" / path).mkdir(parents=True)
        shutil.move(root / path / f"{name}_spec.npz", tmp_path / "sound" / path)
    a, b, c, _ = (sample.key for sample in samples)
    (root / paths[1] / f"{b}_3d.npz").unlink()
    whole = (root / paths[2] / f"{c}_2d.npz").read_bytes()
    (root / paths[2] / f"{c}_2d.npz").write_bytes(whole[: len(whole) // 2])
    other = root / "x" / "sound_wrong"
    other.mkdir(parents=True)
    shutil.copy(root / paths[0] / f"{a}_2d.npz", other / "sound_wrong_2d.npz")
    shutil.copy(root / paths[0] / f"{a}_3d.npz", other / "sound_wrong_3d.npz")
    (tmp_path / "sound/x/sound_wrong").mkdir(parents=True)
    turned = np.zeros((600, 40), np.float16)
    np.savez(tmp_path / "sound/x/sound_wrong/sound_wrong_spec.npz", turned)
    listed = ["path", *(f"None/{path}" for path in paths), "x/sound_wrong", "gone/video"]
    (tmp_path / "list.csv").write_text("\n".join(listed) + "\n")
    reading = Reading(list_url=str(tmp_path / "list.csv"), audio_root=str(tmp_path / "sound"))
    target, found = bring("howto100m", root, reading)
    assert [sample.key for sample in found] == [a, samples[3].key]
    rows = {row["key"]: row for row in read_all_rows(target) if row["status"] == "failed"}
    assert {key: row["reason"] for key, row in rows.items()} == {
        b: "not_found", c: "unreadable", "sound_wrong": "unreadable", "video": "not_found"
    }  # fmt: skip
    assert f"{b}_3d.npz: no such file" in rows[b]["error_message"]
    assert "audio has 600 columns, the dataset has 40" in rows["sound_wrong"]["error_message"]
    assert verify_dataset(target) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video\nx\n", "needs a column 'path', has: video"),
        ("path\n../../etc/x\n", "leads out of the folder"),
        ("path\n", "lists no videos"),
        ("path\na/x\nb/x\n", "key 'x' is given twice"),
        (
            "path\na/x\n",
            "none of the first 1 videos can be read; the first one: .*x_2d.npz: no",
        ),
    ],
)
def test_bad_lists_write_nothing(
    bring: Callable, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UsageError, match=message):
        bring("howto100m", tmp_path, Reading(list_url=str(tmp_path / "list.csv")))
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": {"dim": 64}}, "howto100m audio: track 'audio' has 64 columns, 40 are needed"),
        ({"visual_2d": {"hop": 0.5}}, "2d: track 'visual_2d' has a row each 0.5 s"),
        ({"visual_3d": None}, "has no track 'visual_3d', it has: audio, visual_2d"),
    ],
)
def test_tracks_that_do_not_fit(
    export: Callable, dataset: str, tmp_path: Path, change: dict[str, dict | None], message: str
) -> None:
    card = json.loads(Path(dataset, "dataset.json").read_text())
    for name, facts in change.items():
        if facts is None:
            del card["tracks"][name]
        else:
            card["tracks"][name] |= facts
    Path(dataset, "dataset.json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match=message):
        export("howto100m")
    assert not (tmp_path / "out").exists()


def test_a_track_left_out(export: Callable, bring: Callable, samples: list[VideoSample]) -> None:
    root, _ = export("howto100m", _3d="")
    assert not list(root.rglob("*_3d.npz"))
    _, found = bring("howto100m", root, Reading(tracks={"3d": "", "audio": "sound"}))
    assert set(found[0].tracks) == {"visual_2d", "sound"}
    with pytest.raises(UsageError, match="--track or --hop 4d=…: howto100m has 2d, 3d, audio"):
        bring("howto100m", root, Reading(tracks={"4d": "x"}), output="other")
