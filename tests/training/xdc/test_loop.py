"""training.xdc.loop: it learns, stops, goes on bit for bit, and says what it did."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from extractors.config import XdcVideoConfig
from extractors.errors import AbortError, UsageError
from extractors.xdc_encoder_file import load_video_encoder
from extractors.xdc_run import encoder_file
from pipeline import storage
from tests.training.xdc.conftest import SILENT, UNSEEN
from training import checkpoints
from training.loop import TrainProgress
from training.xdc.config import XdcConfig
from training.xdc.loop import is_saturated, train
from training.xdc.model import XdcModel
from training.xdc.state import XdcTraining, learning_rate, make_optimiser, start_xdc
from training.xdc.supervision import HEADS

CPU = torch.device("cpu")

MakeConfig = Callable[..., XdcConfig]


class StopError(Exception):
    """Stands for a killed process."""


def stop_at(step: int) -> Callable[[TrainProgress], None]:
    def on_progress(progress: TrainProgress) -> None:
        if progress.step == step:
            raise StopError

    return on_progress


def equal(a: object, b: object) -> bool:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def final_state(run: Path) -> dict:
    card = checkpoints.read_card(str(run), "xdc")
    assert card is not None
    assert card["finished"]
    return checkpoints.load_state(str(run), card, CPU)


def rows(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    clocks = ("clips_per_second", "clustering_seconds")
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]


def files(run: Path) -> dict[str, bytes]:
    """What extractors and people read of a run."""
    found = [*(run / "encoders").iterdir(), *(run / "pseudo_labels").iterdir()]
    return {path.name: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def config(make_config: MakeConfig) -> XdcConfig:
    """2 iterations of 3 epochs of 2 batches; balanced, so that the labels decide the clips too."""
    return make_config(method="mdc", epochs=3, sampling__over="clusters", checkpoint_steps=1)


@pytest.fixture(scope="module")
def uninterrupted(dataset: str, config: XdcConfig, tmp_path_factory) -> Path:
    run: Path = tmp_path_factory.mktemp("xdc") / "run"
    train(dataset, str(run), config, CPU)
    return run


def test_a_run_leaves_what_it_should(uninterrupted: Path, dataset: str, config) -> None:
    names = sorted(path.name for path in uninterrupted.iterdir())
    assert names == ["card.json", "checkpoints", "config.yaml", "encoders", "metrics.jsonl",
                     "pseudo_labels", "tensorboard"]  # fmt: skip
    card = json.loads((uninterrupted / "card.json").read_text())
    assert (card["kind"], card["method"], card["finished"]) == ("xdc", "mdc", True)
    assert (card["step"], card["total_steps"], card["iteration"]) == (12, 12, 2)
    assert card["config"] == config.model_dump(mode="json")
    assert set(card["fingerprints"]) == {"mel", "proxy"}
    encoders = [f"{name}_00000{i}.safetensors" for name in ("audio", "video") for i in (1, 2)]
    assert sorted(files(uninterrupted)) == ["000000.parquet", "000001.parquet", *encoders]
    assert card["encoders"] == {"video": "encoders/video_000002.safetensors",
                                "audio": "encoders/audio_000002.safetensors"}  # fmt: skip
    encoder = load_video_encoder(Path(encoder_file(str(uninterrupted), "video")))
    stored = final_state(uninterrupted)["model"]
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, stored[f"encoders.video.{name}"])


def test_each_iteration_is_logged(uninterrupted: Path, dataset: str) -> None:
    logged = rows(uninterrupted)
    clusterings = [row for row in logged if "video_clusters" in row]
    assert [(row["step"], row["iteration"]) for row in clusterings] == [(1, 0), (7, 1)]
    assert all(0 <= row[f"{name}_nmi_label"] <= 1 for row in clusterings
               for name in ("video", "audio"))  # fmt: skip
    assert "video_nmi_last" not in clusterings[0]
    labels = [
        pq.read_table(uninterrupted / "pseudo_labels" / f"00000{i}.parquet").to_pydict()
        for i in (0, 1)
    ]
    assert labels[0]["key"] == labels[1]["key"]
    from sklearn.metrics import normalized_mutual_info_score

    for name, odd in (("video", UNSEEN), ("audio", SILENT)):
        none = [key for key, label in zip(labels[0]["key"], labels[0][name], strict=True)
                if label is None]  # fmt: skip
        assert none == [odd]
        pairs = [p for p in zip(labels[0][name], labels[1][name], strict=True) if None not in p]
        expected = normalized_mutual_info_score(*zip(*pairs, strict=True))
        assert clusterings[1][f"{name}_nmi_last"] == pytest.approx(expected)
    held_out = [row for row in logged if "held_out_loss" in row]
    assert [(row["step"], row["epoch"]) for row in held_out] == [
        (2, 0), (4, 1), (6, 2), (8, 0), (10, 1), (12, 2)
    ]  # fmt: skip
    steps = [row for row in logged if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    heads = [head.name for head in HEADS["mdc"]]
    for row in steps:
        assert row["loss"] == pytest.approx(sum(row[f"loss_{name}"] for name in heads))
        assert all(0 <= row[f"accuracy_{name}"] <= 1 for name in heads)
    events = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("train/held_out_loss")] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("stops", [(3,), (6, 7)])
def test_resuming_is_bit_for_bit(
    uninterrupted: Path, dataset: str, config, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """In the middle of an epoch; at an iteration's end, then in the middle of the next one."""
    run = tmp_path / "run"
    for step in stops:
        with pytest.raises(StopError):
            train(dataset, str(run), config, CPU, stop_at(step))
        torch.manual_seed(step)  # another process would not be in the same state
    reader = {"loader_workers": 0, "open_proxies": 1}
    sampling = config.sampling.model_copy(update=reader)
    metrics = train(dataset, str(run), config.model_copy(update={"sampling": sampling}), CPU)
    assert equal(final_state(run), final_state(uninterrupted))
    assert rows(run) == rows(uninterrupted)
    assert files(run) == files(uninterrupted)
    assert metrics == json.loads((uninterrupted / "card.json").read_text())["metrics"]


def test_checkpoints_between_need_not_be_at_every_step(
    uninterrupted: Path, dataset: str, config, tmp_path: Path
) -> None:
    rare = config.model_copy(update={"checkpoint_steps": 1000})
    with pytest.raises(StopError):
        train(dataset, str(tmp_path), rare, CPU, stop_at(5))
    assert json.loads((tmp_path / "card.json").read_text())["step"] == 4
    train(dataset, str(tmp_path), rare, CPU)
    assert equal(final_state(tmp_path), final_state(uninterrupted))


def test_a_finished_run_is_left_alone(uninterrupted: Path, dataset, config, caplog) -> None:
    before = (uninterrupted / "card.json").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        metrics = train(dataset, str(uninterrupted), config, CPU)
    assert "finished after 12 steps" in caplog.text
    assert metrics["video_clusters"] == 3
    assert (uninterrupted / "card.json").stat().st_mtime_ns == before


def test_other_settings_or_another_method_are_refused(
    uninterrupted: Path, dataset: str, config, tmp_path: Path
) -> None:
    other = config.model_copy(update={"method": "xdc"})
    with pytest.raises(UsageError, match=r"xdc\.method was 'mdc' and is now 'xdc'"):
        train(dataset, str(uninterrupted), other, CPU)
    card = {"kind": "mcn", "format_version": 1}
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match="holds a run of MCN"):
        train(dataset, str(tmp_path), config, CPU)


def test_a_run_without_a_checkpoint_is_kept_from_others(dataset, config, tmp_path: Path) -> None:
    """Stopped while it clusters for the first time: there is no card yet."""
    run, rare = str(tmp_path), config.model_copy(update={"iterations": 1, "checkpoint_steps": 9})
    with pytest.raises(StopError):
        train(dataset, run, rare, CPU, stop_at(1))
    assert not (tmp_path / "card.json").exists()
    with pytest.raises(UsageError, match=r"xdc\.seed was 1 and is now 2.*no checkpoint yet"):
        train(dataset, run, rare.model_copy(update={"seed": 2}), CPU)
    card = json.loads((tmp_path / "started.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "started.json").write_text(json.dumps(card | {"kind": "mcn"}))
    with pytest.raises(UsageError, match="holds a run of MCN"):
        train(dataset, f"{run}/other", rare, CPU)
    train(dataset, run, rare, CPU)
    assert (tmp_path / "card.json").exists()
    assert not (tmp_path / "started.json").exists()


def test_the_card_names_encoders_of_one_iteration(
    dataset, make_config, tmp_path: Path, monkeypatch
) -> None:
    """Killed between the two files of an iteration: a reader still has the last one's."""
    publish = storage.publish_bytes

    def killed(url: str, content: bytes) -> None:
        if url.endswith("audio_000002.safetensors"):
            raise StopError
        publish(url, content)

    config = make_config(iterations=3, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "publish_bytes", killed)
        with pytest.raises(StopError):
            train(dataset, str(tmp_path), config, CPU)
    assert (tmp_path / "encoders" / "video_000002.safetensors").exists()
    for name in ("video", "audio"):
        file = f"{tmp_path}/encoders/{name}_000001.safetensors"
        assert encoder_file(str(tmp_path), name) == file
        assert XdcVideoConfig(run=str(tmp_path)).weights.endswith("video_000001.safetensors")
    train(dataset, str(tmp_path), config, CPU)
    assert sorted(p.name for p in (tmp_path / "encoders").iterdir()) == [
        f"{name}_00000{i}.safetensors" for name in ("audio", "video") for i in (2, 3)
    ]


def test_a_run_from_before_a_setting_goes_on(uninterrupted: Path, dataset, config) -> None:
    card = checkpoints.read_card(str(uninterrupted), "xdc")
    assert card is not None
    del card["config"]["input"]
    checkpoints.check_same_run("run", card, config, card["dataset_digest"], block="xdc")
    raw = config.model_copy(update={"input": "raw"})
    with pytest.raises(UsageError, match=r"xdc\.input was 'auto' and is now 'raw'"):
        checkpoints.check_same_run("run", card, raw, card["dataset_digest"], block="xdc")


def test_mcn_refuses_the_run_in_one_line(uninterrupted: Path) -> None:
    with pytest.raises(UsageError) as caught:
        checkpoints.load_run(str(uninterrupted), CPU)
    assert "a run of mdc, which gives extractors" in str(caught.value)
    assert f"{{kind: xdc_video, run: {uninterrupted}}}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "method", ["xdc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cdc", "sdc"))]
)
def test_it_learns_the_pseudo_labels(dataset: str, make_config, tmp_path: Path, method) -> None:
    """One iteration of 24 epochs of one batch: the labels of eight videos are learned by heart.
    Guessing makes 2 ln 3 of the two heads."""
    config = make_config(method=method, iterations=1, epochs=24, checkpoint_steps=1000,
                         checkpoint_epochs=100, log_steps=10, optimiser__lr=0.02,
                         sampling__batch_clips=8)  # fmt: skip
    metrics = train(dataset, str(tmp_path), config, CPU)
    assert metrics["loss"] < 0.5 * 2 * np.log(3)
    assert all(metrics[f"accuracy_{head.name}"] > 0.7 for head in HEADS[method])


def test_no_iteration_gives_the_encoders_as_they_start(dataset, make_config, tmp_path) -> None:
    config = make_config(iterations=0)
    assert train(dataset, str(tmp_path), config, CPU) == {}
    card = checkpoints.read_card(str(tmp_path), "xdc")
    assert card is not None
    assert (card["finished"], card["step"]) == (True, 0)
    found = load_video_encoder(Path(encoder_file(str(tmp_path), "video"))).state_dict()
    expected = start_xdc(config, CPU).model.encoders["video"].state_dict()
    assert equal(dict(found), dict(expected))


def test_it_stops_when_the_labels_settle(dataset, make_config, tmp_path, caplog) -> None:
    """With a learning rate of next to nothing the clusters stay."""
    config = make_config(
        method="sdc", iterations=9, epochs=1, settle_nmi=0.5, optimiser__lr=1e-12,
        video__norm_momentum=1e-6, clustering__features="raw",
    )  # fmt: skip
    train(dataset, str(tmp_path), config, CPU)
    card = checkpoints.read_card(str(tmp_path), "xdc")
    assert card is not None
    assert card["finished"]
    assert 0 < card["iteration"] < 9
    assert card["step"] == 2 * card["iteration"]
    last = [row for row in rows(tmp_path) if "video_nmi_last" in row][-1]
    assert (last["video_nmi_last"] + last["audio_nmi_last"]) / 2 >= 0.5


def test_an_iteration_is_over_when_the_held_out_loss_saturates(make_config) -> None:
    config = make_config(patience=2, min_improvement=0.01)
    model = XdcModel(config)
    training = XdcTraining(model, make_optimiser(model, config.optimiser))
    losses = [2.0, 1.9, 1.895, 1.5, 1.6, 1.499]
    assert [is_saturated(training, loss) for loss in losses] == [False] * 5 + [True]
    assert training.best_loss == 1.5
    assert not is_saturated(training, None)
    model.config = make_config(patience=None)
    assert not any(is_saturated(training, 9.0) for _ in range(9))


def test_a_saturated_iteration_is_shorter(dataset, make_config, tmp_path: Path) -> None:
    """The loss cannot get better by 90 %: the second epoch is the last of each iteration."""
    config = make_config(epochs=9, patience=1, min_improvement=0.9)
    train(dataset, str(tmp_path), config, CPU)
    card = checkpoints.read_card(str(tmp_path), "xdc")
    assert card is not None
    assert (card["step"], card["total_steps"], card["iteration"]) == (8, 36, 2)


def test_without_held_out_videos_every_epoch_is_taken(dataset, make_config, tmp_path) -> None:
    config = make_config(iterations=1, epochs=3, patience=1, sampling__held_out=0)
    metrics = train(dataset, str(tmp_path), config, CPU)
    assert not any(name.startswith("held_out") for name in metrics)
    assert rows(tmp_path)[-1]["step"] == 6
    json.loads((tmp_path / "card.json").read_text(), parse_constant=pytest.fail)  # no Infinity


def test_what_a_dataset_lacks_is_said(dataset, make_config, tmp_path, caplog) -> None:
    train(dataset, str(tmp_path), make_config(iterations=0), CPU)
    assert f"1 of 10 videos have no sound ({SILENT} …)" in caplog.text
    assert f"1 of 10 videos have no picture ({UNSEEN} …)" in caplog.text


def test_k_larger_than_the_set_is_said(dataset, make_config, tmp_path, caplog) -> None:
    config = make_config(iterations=1, epochs=1, clustering__clusters=64)
    train(dataset, str(tmp_path), config, CPU)
    assert "10 videos: k-means with 4 clusters (configured: 64)" in caplog.text


def test_a_loss_that_is_not_finite_aborts(dataset, make_config, tmp_path: Path) -> None:
    config = make_config(optimiser={"name": "sgd", "lr": 1e30, "warmup_steps": 0})
    with pytest.raises(AbortError, match=r"the loss is .*; lower xdc\.optimiser\.lr"):
        train(dataset, str(tmp_path), config, CPU)


def test_the_video_encoder_may_start_from_a_file(
    uninterrupted: Path, dataset: str, make_config, tmp_path: Path
) -> None:
    file = Path(encoder_file(str(uninterrupted), "video"))
    train(dataset, str(tmp_path), make_config(iterations=0, video_weights=str(file)), CPU)
    assert Path(encoder_file(str(tmp_path), "video")).read_bytes() == file.read_bytes()
    wider = make_config(video_weights=str(file), video__widths=[4, 12])
    with pytest.raises(UsageError, match="another network than this encoder"):
        start_xdc(wider, CPU)


def test_the_learning_rate_warms_up_in_each_iteration(make_config) -> None:
    constant = make_config(optimiser__lr=0.1, optimiser__warmup_steps=4).optimiser
    rates = [learning_rate(constant, step, 100) for step in (0, 1, 3, 4, 99)]
    assert rates == pytest.approx([0.025, 0.05, 0.1, 0.1, 0.1])
    assert learning_rate(constant, 0, 9) == 0.1  # a tenth of nine steps is none
    cosine = constant.model_copy(update={"schedule": "cosine"})
    assert learning_rate(cosine, 52, 100) == pytest.approx(0.05)
    assert learning_rate(cosine, 99, 100) < 1e-3
