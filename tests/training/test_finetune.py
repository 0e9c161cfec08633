"""training.finetune on small real videos: three colours, three tones, encoders of few weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from extractors.config import LogMelConfig
from extractors.errors import AbortError, UsageError
from extractors.xdc_config import AudioEncoderConfig, HeardConfig, VideoEncoderConfig
from extractors.xdc_encoder_file import encoder_bytes
from extractors.xdc_networks import AudioEncoder, VideoEncoder
from tests.conftest import Media
from tests.training.xdc.conftest import SILENT, UNSEEN, extract, extract_config, make_corpus
from training import finetune
from training.finetune import evaluate_finetune, rate_factor
from training.probe_config import FinetuneConfig
from training.protocols.split_tables import SplitTable, dataset_splits

VIDEO = VideoEncoderConfig(widths=(4, 8), blocks=(1, 1), frames=4, short_side=32, size=24)
AUDIO = AudioEncoderConfig(widths=(8, 16), blocks=(1, 1), seconds=0.8)
MEL = LogMelConfig(front_end="xdc")
QUICK = FinetuneConfig(
    epochs=4, clips_per_video=4, batch_clips=6, lr=0.05, head_lr=0.05, warmup_epochs=0,
    drop_epochs=(), test_clips=3, loader_workers=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(media: Media, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("finetune")
    return extract(make_corpus(media, folder), folder / "set", extract_config())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run, as far as its encoders go."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "encoders").mkdir()
    torch.manual_seed(0)
    files = {
        "video": encoder_bytes(VideoEncoder(VIDEO), VIDEO),
        "audio": encoder_bytes(AudioEncoder(AUDIO), HeardConfig(encoder=AUDIO, mel=MEL)),
    }
    for name, content in files.items():
        (folder / "encoders" / f"{name}.safetensors").write_bytes(content)
    return str(folder)


def table(absent: int = 0) -> SplitTable:
    """Clips 0 to 5 or the others are tested."""
    keys = tuple(f"clip{i:02d}" for i in range(11 + absent))
    labels = np.array([f"topic{i % 3}" for i in range(11 + absent)])
    late = np.arange(11 + absent) > 5
    parts = {"1": np.where(late, "test", "train"), "2": np.where(late, "train", "test")}
    return SplitTable(keys, labels, np.array(keys), parts)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_all_layers_learn_what_is_seen_or_heard(dataset: str, run: str, modality) -> None:
    # batch norm's running statistics need some sixty steps
    longer = replace(QUICK, epochs=20)
    found = evaluate_finetune(run, dataset, table(absent=1), modality, longer)
    assert (found.labelled, found.absent, found.without) == (12, 1, 1)
    row = found.row
    assert (row.features, row.measure) == (modality, "full fine-tuning")
    missing = {"video": UNSEEN, "audio": SILENT}[modality]
    trained = 5 if missing == SILENT else 6  # clip04 is of the first half
    first = row.splits[0]
    assert (first.classes, first.chance) == (3, 1 / 3)
    assert (first.train_videos, first.train_clips) == (trained, 4 * trained)
    assert (first.test_videos, first.test_clips) == (10 - trained, 3 * (10 - trained))
    assert row.accuracy > 0.9 > first.majority
    untrained = evaluate_finetune(run, dataset, table(), modality, replace(QUICK, epochs=0))
    assert untrained.row.accuracy < 0.7


def test_the_same_again_and_fresh_encoders(dataset: str, run: str) -> None:
    first = evaluate_finetune(run, dataset, table(), "audio", QUICK)
    assert evaluate_finetune(run, dataset, table(), "audio", QUICK) == first
    loaded = replace(QUICK, loader_workers=1)
    assert evaluate_finetune(run, dataset, table(), "audio", loaded) == first
    fresh = evaluate_finetune(run, dataset, table(), "audio", replace(QUICK, from_scratch=True))
    assert fresh.row.measure == "full fine-tuning, from scratch"
    file = str(Path(run) / "encoders" / "audio.safetensors")
    assert evaluate_finetune(file, dataset, table(), "audio", QUICK) == first


def test_fc_only_leaves_the_encoder_as_it_is(dataset: str, run: str, monkeypatch) -> None:
    made: list[nn.Module] = []
    before: list[dict[str, torch.Tensor]] = []
    original = finetune.make_encoder

    def noted(*arguments, **options):
        encoder = original(*arguments, **options)
        made.append(encoder)
        before.append({name: value.clone() for name, value in encoder.state_dict().items()})
        return encoder

    monkeypatch.setattr(finetune, "make_encoder", noted)
    found = evaluate_finetune(run, dataset, table(), "audio", replace(QUICK, trained="fc"))
    assert found.row.measure == "fc only"
    for encoder, old in zip(made, before, strict=True):  # batch norm's statistics too
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, old[name]), name
    assert len(made) == 2  # each split begins anew
    evaluate_finetune(run, dataset, table(), "audio", QUICK)
    changed = made[2].state_dict()["stem.0.weight"]
    assert not torch.equal(changed, before[2]["stem.0.weight"])
    assert torch.equal(before[2]["stem.0.weight"], before[3]["stem.0.weight"])


def test_few_labels_and_the_datasets_own_split(dataset: str, run: str) -> None:
    few = evaluate_finetune(run, dataset, table(), "audio", replace(QUICK, labels=3, epochs=1))
    assert [split.train_videos for split in few.row.splits] == [3, 3]
    # clip10 alone is of the split 'test', the others of none
    with pytest.raises(UsageError, match="no labelled video is in 'train'"):
        dataset_splits(dataset)


def test_rates_rise_then_fall() -> None:
    config = FinetuneConfig()
    factors = [rate_factor(config, step, 10) for step in (0, 9, 19, 20, 59, 60, 99, 100)]
    assert factors == pytest.approx([0.05, 0.5, 1, 1, 1, 0.05, 0.05, 0.0025])
    assert rate_factor(QUICK, 0, 10) == 1.0


def test_wrong_use_is_refused(dataset: str, run: str, tmp_path: Path) -> None:
    def refused(words: str, model: str = run, given: SplitTable | None = None, **changes) -> None:
        config = replace(QUICK, **changes)
        with pytest.raises(UsageError, match=words):
            evaluate_finetune(model, dataset, given or table(), "audio", config)

    refused("no such encoder", str(tmp_path))
    other = HeardConfig(encoder=AUDIO, mel=MEL.model_copy(update={"hop": 0.01}))
    file = tmp_path / "other.safetensors"
    file.write_bytes(encoder_bytes(AudioEncoder(AUDIO), other))
    refused("track mel has another front end", str(file))
    refused("holds none of the 11 labelled", given=replace(table(), keys=tuple("abcdefghijk")))
    refused("40 labels wanted, 5 training videos", labels=40)
    only = np.where(np.arange(11) == 4, "test", "train")  # the silent one
    refused("split 1: no video to test", given=replace(table(), parts={"1": only}))
    with pytest.raises(UsageError, match="has no such track of XDC's log-mel"):
        evaluate_finetune(run, dataset, table(), "audio", QUICK, audio_track="sound")
    with pytest.raises(AbortError, match=r"the loss is (nan|inf); lower --lr"):
        evaluate_finetune(run, dataset, table(), "audio", replace(QUICK, lr=1e30, head_lr=1e30))
