"""The loop closes, by the command line: proxies, XDC, its encoders as extractors, MCN."""

import contextlib
import io
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from extractors.xdc_run import encoder_file
from pipeline.cli import main, show
from pipeline.dataset import read_dataset_card
from pipeline.lease import holding, read_lease
from pipeline.samples import read_dataset
from tests.training.xdc.conftest import UNSEEN, extract_config, small_config
from training import checkpoints
from training.xdc.clips import ClipRef
from training.xdc.model import XdcModel
from training.xdc.reading import ClipReader


def pipeline(*words: object, code: int = 0) -> str:
    """Runs the command line in this process; gives what it said, of an error the last line."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["pipeline", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    for name, handler in handlers.items():
        signal.signal(name, handler)
    assert (ended.value.code or 0) == code, err.getvalue()
    lines = err.getvalue().strip().splitlines()
    return (lines or [""])[-1] if code else out.getvalue()


def settings_file(folder: Path, **blocks: object) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(blocks))
    return path


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run train --method cdc` on proxies."""
    folder = tmp_path_factory.mktemp("cdc")
    blocks = {"xdc": small_config(iterations=1).model_dump(mode="json")}
    said = pipeline(
        *("run", "train", "--method", "cdc", "--device", "cpu", "--dataset", dataset),
        *("--output", folder / "run", "--config", settings_file(folder, **blocks)),
    )
    assert "Trained to" in said
    return folder / "run"


@pytest.fixture(scope="module")
def learned(run: Path, corpus: Path, dataset: str, tmp_path_factory) -> Path:
    """The corpus extracted with the learned encoders."""
    folder = tmp_path_factory.mktemp("learned")
    extractors = {
        "visual_2d": None,
        "visual_3d": {"kind": "xdc_video", "run": str(run), "hop": 0.5},
        "audio": {"kind": "xdc_audio", "run": str(run), "hop": 0.1},
    }
    extract = extract_config().model_dump(mode="json") | {"extractors": extractors, "proxy": None}
    said = pipeline(
        *("run", "extract", "--device", "cpu", "--input", corpus, "--output", folder / "set"),
        *("--config", settings_file(folder, extract=extract)),
    )
    assert "made now" in said
    return folder / "set"


def test_two_trainings_in_one_folder_are_refused(run: Path, dataset: str, tmp_path: Path) -> None:
    """Of the same settings too: the second would remove the first one's checkpoints."""
    where = ("--device", "cpu", "--dataset", dataset, "--output", tmp_path / "run")
    with holding(str(tmp_path / "run")):
        said = pipeline("run", "train", "--method", "cdc", *where, code=1)
        assert "another run works on it (process " in said
        said = pipeline(*("run", "index", "--model", run, *where[:-1], tmp_path / "run"), code=1)
        assert "another run works on it (process " in said
        blocks = {"xdc": small_config(iterations=0).model_dump(mode="json")}
        file = settings_file(tmp_path, **blocks)
        pipeline("run", "train", "--method", "cdc", *where, "--config", file, "--take-over")
    assert read_lease(str(tmp_path / "run")) is None
    assert (tmp_path / "run" / "card.json").exists()


def test_an_error_has_no_bar_above_it(dataset: str, tmp_path: Path) -> None:
    """The bar begins with the first step."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show, "err", Console(file=said, width=200))
        pipeline("run", "train", "--method", "xdc", "--device", "cpu", "--dataset", dataset,
                 "--output", tmp_path / "run", code=2)  # fmt: skip
    assert said.getvalue().startswith("error: xdc.video.short_side = 128: ")
    assert "steps" not in said.getvalue()


def test_the_card_says_which_method(run: Path) -> None:
    card = json.loads((run / "card.json").read_text())
    assert (card["kind"], card["method"], card["finished"]) == ("xdc", "cdc", True)
    assert yaml.safe_load((run / "config.yaml").read_text())["method"] == "cdc"


def test_features_are_the_encoders(run: Path, learned: Path) -> None:
    """2.4 s of video make rows at 0, 0.5 … 2.0 s and of sound at 0, 0.1 … 2.3 s."""
    for sample in read_dataset(str(learned)):
        if sample.key == UNSEEN:
            assert set(sample.tracks) == {"audio"}
            continue
        assert sample.tracks["visual_3d"].rows.shape == (5, 8)
        lengths = np.linalg.norm(sample.tracks["visual_3d"].rows.astype(np.float32), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=2e-3)  # float16
    facts = read_dataset_card(str(learned))
    assert facts["tracks"]["audio"] == {"dim": 8, "dtype": "float16", "start": 0.4, "hop": 0.1}
    stored = json.loads(next((learned / "provenance").iterdir()).read_text())
    assert stored["visual_3d"]["weights_sha256"] is not None
    assert str(run) not in json.dumps(stored)


def test_extractors_see_what_training_saw(run: Path, learned: Path, videos) -> None:
    """Rows of the raw video against the encoder on the proxy's frames and the stored spectrogram.
    Sound is the same but for roundings (measured: cosines from 0.99996, of other videos up to
    0.998); the proxy has lost something to H.264 (0.994 and up; of other topics 0.73 to 0.98)."""
    reader, model = ClipReader(videos, small_config()), XdcModel(small_config())
    samples = {sample.key: sample for sample in read_dataset(str(learned))}
    for name in ("video", "audio"):
        file = encoder_file(str(run), name)
        model.encoders[name].load_state_dict(load_file(file))
    model.eval()
    for key in ("clip00", "clip05"):
        batch = reader.__getitems__([ClipRef(videos.keys.index(key), 0.0)])
        for name, track, least in (("video", "visual_3d", 0.99), ("audio", "audio", 0.9999)):
            with torch.no_grad():
                (vector,) = torch.nn.functional.normalize(model.encode(name, batch)).numpy()
            assert samples[key].tracks[track].rows[0].astype(np.float32) @ vector > least


def test_mcn_trains_on_them(learned: Path, tmp_path: Path) -> None:
    train = {
        "epochs": 2,
        "sampling": {
            "modalities": ["video", "audio"],
            "visual_tracks": ["visual_3d"],
            "batch_videos": 4,
            "clips_per_video": 2,
            "min_time": 1.0,
            "audio_frames": 16,
        },
        "model": {"embedding_dim": 16, "audio_widths": [8], "audio_blocks": 1, "decoder_dim": 8},
        "clustering": {"clusters": 2, "queue_rows": 8},
    }
    pipeline(
        *("run", "train", "--device", "cpu", "--dataset", learned, "--output", tmp_path / "run"),
        *("--config", settings_file(tmp_path, train=train)),
    )
    loaded = checkpoints.load_run(str(tmp_path / "run"), torch.device("cpu"))
    assert loaded.card["step"] == 4
    assert np.isfinite(loaded.card["metrics"]["loss"])
    assert loaded.card["dims"] == {"visual": [8], "audio": 8, "text": 0}


def test_index_refuses_the_run_in_one_line(run: Path, dataset: str, tmp_path: Path) -> None:
    said = pipeline(
        *("run", "index", "--dataset", dataset, "--model", run, "--output", tmp_path / "index"),
        code=2,
    )
    assert said.startswith("error: ")
    assert "a run of cdc, which gives extractors, not a model that embeds" in said
    assert f"extract.extractors.visual_3d={{kind: xdc_video, run: {run}}}" in said


def test_wrong_usage_is_one_line(learned: Path, dataset: str, tmp_path: Path) -> None:
    where = ("--device", "cpu", "--output", tmp_path / "x")
    said = pipeline("run", "train", "--method", "dino", "--dataset", dataset, *where, code=2)
    assert "--method dino: allowed are mcn, sdc, mdc, cdc, xdc" in said
    said = pipeline("run", "train", "--method", "xdc", "--dataset", learned, *where, code=2)
    assert "xdc.audio_track = mel" in said
    assert "has no such track of XDC's log-mel" in said
    assert not (tmp_path / "x").exists()
