"""`pipeline evaluate list`, `tracks` and `finetune` on a small ESC-50, from archive to table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from extractors.config import LogMelConfig
from extractors.xdc_config import AudioEncoderConfig, HeardConfig
from extractors.xdc_encoder_file import encoder_bytes
from extractors.xdc_networks import AudioEncoder
from pipeline.cli import show

FOLDS, PER_FOLD, RATE = 3, 6, 16_000
TONES = {"dog": 300, "rain": 1500, "siren": 4000}
SETTINGS = """
extract:
  videos_per_shard: 10
  extractors:
    visual_2d: null
    visual_3d: null
    audio: null
    mel: {kind: log_mel, front_end: xdc}
    heard: {kind: xdc_audio, weights: ENCODER, hop: 0.1, normalise: false}
  proxy: {short_side: 32}
  speech: null
  text: null
"""


def make_esc50(folder: Path) -> None:
    """18 recordings of a second in the archive's layout; one of the list is not there."""
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for i in range(FOLDS * PER_FOLD):
        rng = np.random.default_rng((4, i))
        category, fold = list(TONES)[i % 3], i // PER_FOLD + 1
        time = np.arange(RATE) / RATE
        tone = 0.4 * np.sin(2 * np.pi * TONES[category] * rng.uniform(0.9, 1.1) * time)
        sound = tone + 0.05 * rng.normal(size=RATE)
        name = f"{fold}-{1000 + i}-A-{i % 3}.wav"
        wavfile.write(folder / "audio" / name, RATE, np.round(sound * 32767).astype(np.int16))
        rows.append(f"{name},{fold},{i % 3},{category},False,{1000 + i},A")
    rows.append("1-9999-A-0.wav,1,0,dog,False,9999,A")
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esc50")
    make_esc50(folder / "ESC-50-master")
    torch.manual_seed(0)
    config = AudioEncoderConfig(widths=(8, 16), blocks=(1, 1), seconds=0.4)
    heard = HeardConfig(encoder=config, mel=LogMelConfig(front_end="xdc"))
    encoder = folder / "audio.safetensors"
    encoder.write_bytes(encoder_bytes(AudioEncoder(config), heard))
    (folder / "settings.yaml").write_text(SETTINGS.replace("ENCODER", str(encoder)))
    return folder


@pytest.fixture
def source(run, folder: Path) -> str:
    """What `evaluate list` writes."""
    outcome = run("evaluate", "list", "esc50", folder / "ESC-50-master")
    assert outcome.code == 0, outcome.err
    return str(folder / "ESC-50-master" / "videos.csv")


@pytest.fixture
def dataset(run, folder: Path, source: str) -> str:
    """wav files come into a dataset by their list; it is made once."""
    target = folder / "dataset"
    if not (target / "manifest.parquet").exists():
        outcome = run(
            "run", "extract", "--input", source, "--output", target,
            "--config", folder / "settings.yaml", "--device", "cpu",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    return str(target)


def test_list_says_what_it_found(run, folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(show.out, "_width", 200)
    target = tmp_path / "list.csv"
    outcome = run("evaluate", "list", "esc50", folder / "ESC-50-master", "--output", target)
    assert outcome.code == 0, outcome.err
    assert f"{target}: 18 files, 3 labels" in outcome.err
    assert "1 files of the lists are not there, as 1-9999-A-0.wav" in outcome.err
    first, *rows = target.read_text().splitlines()
    assert first == "path,key,label,split,group,split_1,split_2,split_3"
    assert len(rows) == 18
    assert rows[0] == (
        f"{folder}/ESC-50-master/audio/1-1000-A-0.wav,audio__1-1000-A-0,dog,test,1000,"
        "test,train,train"
    )


def test_tracks_of_sounds_over_folds(
    run, dataset: str, source: str, tmp_path: Path, monkeypatch
) -> None:
    output = tmp_path / "out" / "report.json"
    arguments = ("evaluate", "tracks", "--dataset", dataset, "--splits", source, "--track", "heard")
    outcome = run(*arguments, "--c", 0.1, "--c", 1, "--json", "--output", output)
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert json.loads(output.read_text()) == report
    assert (report["evaluation"], report["labelled"], report["absent"]) == ("tracks", 18, 0)
    assert report["settings"]["c"] == [0.1, 1.0]
    assert set(report["fingerprints"]) == {"heard"}
    rows = {row["measure"]: row for row in report["rows"]}
    assert set(rows) == {"logistic", "svm", "nearest 1", "nearest 5", "nearest 10"}
    for row in rows.values():
        assert [split["split"] for split in row["splits"]] == ["1", "2", "3"]
        for split in row["splits"]:
            assert (split["train_videos"], split["test_videos"]) == (12, 6)
            assert split["majority"] == pytest.approx(1 / 3)
    # tones are apart even for a network of random weights
    assert rows["svm"]["accuracy"] > 0.9
    assert rows["svm"]["splits"][0]["chance"] == pytest.approx(1 / 3)
    monkeypatch.setattr(show.out, "_width", 200)
    table = run(*arguments, "--c", 1)
    for words in (
        "Tracks on 18 labelled videos",
        "logistic",
        "svm",
        "nearest 5",
        "majority %",
        "±",
    ):
        assert words in table.out


def test_the_datasets_own_split(run, dataset: str) -> None:
    outcome = run(
        "evaluate", "tracks", "--dataset", dataset, "--track", "heard", "--c", 1,
        "--average", "features", "--labels", 6, "--clips", 3, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (split,) = json.loads(outcome.out)["rows"][0]["splits"]
    assert (split["split"], split["train_videos"], split["train_clips"]) == ("split", 6, 6)
    assert split["test_videos"] == 6  # the first fold


def test_finetune(run, folder: Path, dataset: str, source: str, monkeypatch) -> None:
    arguments = (
        "evaluate", "finetune", "--dataset", dataset, "--model", folder / "audio.safetensors",
        "--modality", "audio", "--splits", source, "--epochs", 15, "--clips-per-video", 4,
        "--batch-clips", 12, "--lr", 0.1, "--head-lr", 0.1, "--warmup-epochs", 0,
        "--drop-epoch", 12, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    outcome = run(*arguments, "--split", 1, "--split", 3, "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert [split["split"] for split in report["row"]["splits"]] == ["1", "3"]
    assert (report["evaluation"], report["modality"]) == ("finetune", "audio")
    assert report["settings"]["drop_epochs"] == [12]
    assert len(report["encoder_sha256"]) == 64
    assert report["row"]["accuracy"] > 0.8 > report["row"]["splits"][0]["majority"]
    assert [split["test_clips"] for split in report["row"]["splits"]] == [60, 60]
    monkeypatch.setattr(show.out, "_width", 200)
    table = run(*arguments, "--layers", "fc", "--from-scratch", "--split", 2)
    assert "fc only, from scratch" in table.out
    assert "Fine-tuning on 18 labelled videos" in table.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "kinetics", "."], "kinetics: no such set; there are: ucf101"),
        (["tracks", "--average", "votes"], "--average votes: allowed are scores and features"),
        (["tracks", "--c", "0"], "--c 0.0: must be above 0"),
        (["tracks", "--track", "seen"], "no track 'seen'; there are: mel, heard"),
        (["tracks", "--splits", "nowhere.csv"], "nowhere.csv: no such file"),
        (["tracks", "--split", "2"], "no split '2'; there are: split"),
        (["finetune", "--model", "m", "--modality", "text"], "allowed are video and audio"),
        (["finetune", "--model", "m", "--layers", "some"], "allowed are fc and all"),
        (["finetune", "--model", "nowhere"], "no such encoder"),
    ],
)
def test_wrong_use_is_one_line(run, dataset: str, arguments: list[str], message: str) -> None:
    where = [] if arguments[0] == "list" else ["--dataset", dataset]
    outcome = run("evaluate", *arguments, *where)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
