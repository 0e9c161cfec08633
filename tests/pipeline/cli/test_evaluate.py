"""`pipeline evaluate` from end to end: a small trained run, every command, tables and JSON."""

import json
import pickle
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.tracks import Segment, Track
from pipeline import shards, storage
from pipeline.config import ExtractConfig
from pipeline.dataset import write_dataset_card
from pipeline.query import embed_sentences
from pipeline.samples import VideoSample, encode_sample, write_tar
from training.config import TrainConfig
from training.loop import train

CPU = torch.device("cpu")
SAYINGS = {
    "make_tea": ("pour hot tea into the cup", "a cup of green tea"),
    "launch_rocket": ("the rocket lifts off", "a rocket flies into space"),
    "chop_onion": ("cut the onion into thin slices", "chop an onion"),
    "pet_cat": ("a cat with green eyes", "the kitten plays on the floor"),
}
LABELS = tuple(SAYINGS)


def directions(name: str, width: int) -> np.ndarray:
    return np.random.default_rng(sum(map(ord, name))).normal(size=(len(LABELS), width))


def make_video(number: int, split: str, text: dict[str, np.ndarray], duration: float = 6.0):
    """A video of label number % 4 that says its two sentences."""
    label = LABELS[number % len(LABELS)]
    rng = np.random.default_rng((7, number))

    def noisy(name: str, width: int, rows: int) -> np.ndarray:
        mean = directions(name, width)[number % len(LABELS)]
        return mean + 0.5 * rng.normal(size=(rows, width))

    decibel = np.clip(-40 + 10 * noisy("audio", 40, int(duration * 100)), -80, 0)
    tracks = {
        "visual_2d": Track(noisy("2d", 24, int(duration)).astype(np.float16), 0.5, 1.0),
        "visual_3d": Track(noisy("3d", 16, int(duration)).astype(np.float16), 0.5, 1.0),
        "audio": Track(decibel.astype(np.float16), 0.0, 0.01),
    }
    edges = pairwise(np.linspace(0, duration, 3).tolist())
    segments = tuple(
        Segment(start, end, words, "captions")
        for (start, end), words in zip(edges, SAYINGS[label], strict=True)
    )
    meta = {
        "uri": f"{number}.mp4",
        "duration": duration,
        "label": label,
        "split": split,
        "tracks": {name: {"start": t.start, "hop": t.hop} for name, t in tracks.items()},
    }
    return VideoSample(f"video{number:03d}", meta, tracks, segments, text[label])


def publish(dataset: Path, number: int, samples: list[VideoSample]) -> None:
    """A shard as extraction publishes it."""
    folder = dataset / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    tar = Path(shards.shard_url(str(dataset), number, ".tar"))
    parquet = Path(shards.shard_url(str(dataset), number, ".parquet"))
    write_tar(tar, [(sample.key, encode_sample(sample)) for sample in samples])
    rows = [
        {"key": s.key, "status": "success", "split": s.meta["split"], "rows": []} for s in samples
    ]
    shards.write_rows(parquet, rows)
    record = shards.ShardRecord(
        number=number, count=len(rows), successes=len(rows), reasons={},
        tar_sha256=shards.sha256_of(tar), tar_bytes=tar.stat().st_size,
        parquet_sha256=shards.sha256_of(parquet), job="0", stage_seconds={},
        video_seconds=sum(s.duration for s in samples), started="", ended="",
    )  # fmt: skip
    url = shards.shard_url(str(dataset), number, "_stats.json")
    storage.publish_json(url, {"format_version": shards.FORMAT_VERSION, **asdict(record)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(dataset, run): 32 videos to train on, 16 to test, with real sentence vectors."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = ExtractConfig(speech=None)
    sentences = [words for both in SAYINGS.values() for words in both]
    vectors = np.concatenate(embed_sentences(sentences, config, CPU))
    text = {label: vectors[2 * i : 2 * i + 2] for i, label in enumerate(LABELS)}
    videos = [make_video(i, "train" if i < 32 else "test", text) for i in range(48)]
    for number, first in enumerate(range(0, 48, 16)):
        publish(folder / "set", number, videos[first : first + 16])
    write_dataset_card(str(folder / "set"), config)
    settings = TrainConfig.model_validate(
        {
            "epochs": 15,
            "checkpoint_steps": 1000,
            "checkpoint_epochs": 15,
            "sampling": {"batch_videos": 16, "clips_per_video": 2, "min_time": 2.0},
            "model": {"embedding_dim": 16, "audio_widths": [8, 8], "audio_blocks": 1},
            "loss": {"reconstruction_weight": 0.0},
            "clustering": {"clusters": 4, "queue_rows": 64, "refit_steps": 2},
            "optimiser": {"lr": 3e-3, "warmup_steps": 2},
        }
    )  # fmt: skip
    torch.set_num_threads(1)
    train(str(folder / "set"), str(folder / "run"), settings, CPU)
    return str(folder / "set"), str(folder / "run")


@pytest.fixture
def evaluate(run, trained, tmp_path: Path):
    """Runs a command of `evaluate` with --json and --output; gives what both agree on."""
    dataset, model = trained

    def call(command: str, *arguments: object, data: bool = True) -> dict[str, object]:
        where = ["--dataset", dataset] if data else []
        output = tmp_path / "out" / "report.json"
        outcome = run(
            "evaluate", command, *where, "--model", model, *arguments,
            "--json", "--output", output, "--device", "cpu",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        report: dict[str, object] = json.loads(outcome.out)
        assert json.loads(output.read_text()) == report
        assert report["evaluation"] == command
        assert report["model"] == model
        assert report["checkpoint"]
        return report

    return call


def test_retrieval_of_the_pairs_asked_for(evaluate) -> None:
    report = evaluate("retrieval", "--pair", "text:video+audio", "--pair", "audio:video")
    first, second = report["rows"]
    assert (first["query"], first["target"]) == ("text", "video+audio")
    assert (second["query"], second["target"]) == ("audio", "video")
    assert (first["metrics"]["queries"], first["metrics"]["candidates"]) == (32, 32)
    assert first["metrics"]["recall"]["10"] > 0.7
    assert first["chance_recall"]["10"] == pytest.approx(10 / 32)
    assert first["chance_median_rank"] == 16.5
    assert evaluate("retrieval", "--split", "all")["rows"][0]["items"] == 96


def test_clusters(evaluate) -> None:
    embedding, raw = evaluate("clusters")["rows"]
    assert (embedding["features"], raw["features"]) == ("embedding", "raw")
    assert embedding["clusters"] == 4
    assert embedding["agreement"]["ami"] > 0.8
    assert set(raw["agreement"]) == {
        "nmi", "ami", "ari", "purity", "accuracy", "entropy", "mean_purity"
    }  # fmt: skip


def test_zero_shot_by_the_names_of_labels(evaluate) -> None:
    (row,) = evaluate("zero-shot")["rows"]
    assert row["recall"]["1"] > 0.5 > row["chance"]["1"] == 0.25
    assert row["recall"]["5"] == 1.0
    assert (row["queries"], row["candidates"]) == (16, 4)


def test_neighbours(evaluate) -> None:
    embedding, raw = evaluate("neighbours")["rows"]
    assert embedding["recall"]["recall"]["1"] > 0.9
    assert raw["recall"]["recall"]["1"] > 0.9
    assert embedding["recall"]["chance"]["1"] == pytest.approx(0.25)
    assert (embedding["recall"]["queries"], embedding["recall"]["candidates"]) == (16, 32)


def test_probe(evaluate) -> None:
    rows = evaluate("probe", "--c", 0.5)["rows"]
    assert [(row["features"], row["classifier"]) for row in rows] == [
        ("embedding", "logistic"),
        ("embedding", "svm"),
        ("raw", "logistic"),
        ("raw", "svm"),
    ]
    assert all(row["accuracy"] > 0.9 and row["chance"] == 0.25 for row in rows)
    assert all((row["test_videos"], row["train_clips"]) == (16, 64) for row in rows)


def caption_pickle(path: Path, width: int = 24) -> str:
    """16 clips of 8 videos that show and say what the test videos do; two are silent."""
    rng = np.random.default_rng(3)
    items = []
    for i in range(16):
        label = i % 4
        item = {
            "2d": directions("2d", 24)[label] + 0.3 * rng.normal(size=24),
            "3d": directions("3d", 16)[label] + 0.3 * rng.normal(size=16),
            "audio": torch.full((40, 300), -40.0)
            + 10 * torch.from_numpy(directions("audio", 40)[label])[:, None],
            "caption": SAYINGS[LABELS[label]][0],
            "id": f"youtube_{i // 2:03d}_{i}",
        }
        if i in (4, 9):
            item["audio"] = None
        items.append(item | {"2d": np.resize(item["2d"], width)})
    path.write_bytes(pickle.dumps(items))
    return str(path)


def test_youcook2(evaluate, tmp_path: Path) -> None:
    data = caption_pickle(tmp_path / "youcook2.pkl")
    arguments = ("--data", data, "--trust-pickle", "--pair", "text:video+audio")
    report = evaluate("youcook2", *arguments, data=False)
    (row,) = report["rows"]
    assert (report["clips"], report["with_audio"]) == (16, 14)
    assert row["metrics"]["recall"]["5"] > 0.6 > row["chance_recall"]["5"]
    assert list(report["videos"]) == ["clip", "video", "caption_average", "video_vote", "clip_vote"]
    assert report["videos"]["caption_average"]["candidates"] == 8


def test_msrvtt_with_its_denominator(evaluate, tmp_path: Path) -> None:
    data = caption_pickle(tmp_path / "msrvtt.pkl")
    arguments = ("--data", data, "--trust-pickle", "--complete", "--pair", "text:audio")
    (plain,) = evaluate("msrvtt", *arguments, data=False)["rows"]
    (counted,) = evaluate("msrvtt", *arguments, "--count-missing", data=False)["rows"]
    assert (plain["metrics"]["queries"], plain["metrics"]["missing"]) == (14, 0)
    assert (counted["metrics"]["queries"], counted["metrics"]["missing"]) == (16, 2)
    ratio = counted["metrics"]["recall"]["5"] / plain["metrics"]["recall"]["5"]
    assert ratio == pytest.approx(14 / 16)
    (whole,) = evaluate("msrvtt", *arguments, "--total", 20, data=False)["rows"]
    assert whole["metrics"]["queries"] == 20


def test_crosstask(evaluate, tmp_path: Path) -> None:
    """Every second of a video shows one label: the step of that name is as good anywhere."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "7_video032.csv").write_text("1,0,6\n2,3,4\n")
    (folder / "7_video033.csv").write_text("2,0,6\n")
    (folder / "7_notthere.csv").write_text("2,0,6\n")
    tasks = tmp_path / "tasks_primary.txt"
    tasks.write_text("7\nDrink\nhttp://x\n2\npour tea,launch rocket\n\n")
    report = evaluate(
        "crosstask", "--annotations", folder, "--tasks", tasks, "--probs", tmp_path / "probs"
    )
    assert (report["videos"], report["absent"], report["steps"]) == (2, 1, 3)
    assert report["recall_per_video"] in (0.75, 1.0)  # the steps of six seconds cannot be missed
    # launch at second 3: 3 of 15 placements
    assert report["chance_per_video"] == pytest.approx(((1 + 3 / 15) / 2 + 1) / 2)
    assert report["chance_per_task"] == pytest.approx((1 + 3 / 15 + 1) / 3)
    shares = np.exp(np.loadtxt(tmp_path / "probs" / "video032.probs"))
    assert shares.shape == (6, 2)
    assert (shares[:, 0] > 0.5).all()  # tea is shown, not a rocket


def test_mining_youtube(evaluate, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    labels = np.zeros((6, 2))
    labels[:3, 0] = labels[3:, 1] = 1
    np.save(folder / "video034.npy", labels)
    (tmp_path / "steps.json").write_text(json.dumps({"video034": ["chop onion", "pet cat"]}))
    report = evaluate("miningyoutube", "--labels", folder, "--steps", tmp_path / "steps.json")
    assert (report["videos"], report["steps"], report["tasks"]) == (1, 2, {})
    assert 0 <= report["one_second"]["iou"] <= 1 / 3 + 1e-9
    # every second is one of the two, in order: some of each is always right
    assert report["covering"]["iou"] > report["one_second"]["iou"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("retrieval", ["text→video+audio", "R@10 %", "32 of 32", "(31.2)"]),
        ("clusters", ["embedding", "raw", "NMI", "AMI", "entropy"]),
        ("zero-shot", ["top-1 %", "top-5 %", "(25.0)", "labels"]),
        ("neighbours", ["embedding", "raw", "(25.0)"]),
        ("probe", ["logistic", "svm", "majority %", "25.0"]),
    ],
)
def test_tables(run, trained, monkeypatch, command: str, words: list[str]) -> None:
    from pipeline.cli import show

    monkeypatch.setattr(show.out, "_width", 200)
    dataset, model = trained
    outcome = run("evaluate", command, "--dataset", dataset, "--model", model)
    assert outcome.code == 0, outcome.err
    for word in words:
        assert word in outcome.out


def test_the_tables_of_published_sets(run, trained, monkeypatch, tmp_path: Path) -> None:
    from pipeline.cli import show

    monkeypatch.setattr(show.out, "_width", 200)
    data = caption_pickle(tmp_path / "set.pkl")
    youcook2 = run("evaluate", "youcook2", "--model", trained[1], "--data", data, "--trust-pickle")
    assert "16 clips, 14 with sound" in youcook2.out
    assert "all captions → video, vote over top clips" in youcook2.out
    np.save(tmp_path / "video034.npy", np.eye(6, 2))
    (tmp_path / "steps.json").write_text(json.dumps({"video034": ["chop onion", "pet cat"]}))
    mining = run(
        "evaluate", "miningyoutube", "--dataset", trained[0], "--model", trained[1],
        "--labels", tmp_path, "--steps", tmp_path / "steps.json",
    )  # fmt: skip
    assert "2 steps in 1 videos (0 not in the dataset" in mining.out
    assert "IoD, every second a step" in mining.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval", "--pair", "text"], "--pair text: wanted is QUERY:TARGET"),
        (["retrieval", "--pair", "text:smell"], "modalities 'smell'"),
        (["probe", "--c", "0"], "--c 0.0: must be above 0"),
        (["probe", "--train-split", "none"], "no clips in split 'none'"),
        (["crosstask", "--annotations", "nowhere", "--tasks", "nothing.txt"], "no such file"),
    ],
)
def test_wrong_use_is_one_line(run, trained, arguments: list[str], message: str) -> None:
    dataset, model = trained
    outcome = run("evaluate", *arguments, "--dataset", dataset, "--model", model)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_pickles_need_trust_and_the_runs_widths(run, trained, tmp_path: Path) -> None:
    data = caption_pickle(tmp_path / "wide.pkl", width=2048)
    for flags, message in [
        ([], "--trust-pickle"),
        (["--trust-pickle"], "2d has width 2048, the run takes 24"),
        (["--trust-pickle", "--dataset", str(tmp_path)], "not a dataset"),
    ]:
        outcome = run("evaluate", "msrvtt", "--model", trained[1], "--data", data, *flags)
        assert outcome.code == 2
        assert message in outcome.err
