"""Which labels reach which encoder: the table, and the gradients that follow from it."""

import pytest
import torch

from training.xdc.model import XdcModel, head_sums
from training.xdc.reading import ClipBatch
from training.xdc.supervision import HEADS, label_sets

# whether labels (column) give an encoder (row) a gradient: arXiv 1911.12667, figure 2
REACHES = {
    "sdc": {"video": {"video"}, "audio": {"audio"}},
    "mdc": {"video": {"video", "audio"}, "audio": {"video", "audio"}},
    "cdc": {"video": {"joint"}, "audio": {"joint"}},
    "xdc": {"video": {"audio"}, "audio": {"video"}},
    "supervised": {"video": {"plan"}, "audio": {"plan"}},
}


def test_the_methods_are_those_of_the_paper() -> None:
    assert set(HEADS) == set(REACHES)
    assert [len(HEADS[method]) for method in ("sdc", "mdc", "cdc", "xdc")] == [2, 4, 2, 2]
    assert label_sets("cdc") == ("joint",)
    assert set(label_sets("mdc")) == {"video", "audio"}


@pytest.mark.parametrize("method", HEADS)
def test_labels_reach_the_encoders_of_the_table(method, make_config) -> None:
    """Only one label set is given at a time; the others are missing."""
    clusters = {"video": 3, "audio": 4, "joint": 5, "plan": 6}
    model = XdcModel(make_config(method=method)).train()
    model.renew_heads(clusters, 0)
    frames = torch.randint(0, 256, (4, 4, 24, 24, 3), dtype=torch.uint8)
    batch = ClipBatch(frames, torch.rand(4, 40, 40).half() * 20)
    here, missing = torch.tensor([0, 1, 2, 0]), torch.full((4,), -1)
    has = {"video": torch.ones(4, dtype=torch.bool), "audio": torch.ones(4, dtype=torch.bool)}
    found: dict[str, set[str]] = {"video": set(), "audio": set()}
    for given in label_sets(method):
        labels = {name: here if name == given else missing for name in label_sets(method)}
        model.zero_grad()
        sums = head_sums(model, batch, has, labels)
        torch.stack([loss for loss, _ in sums.values()]).sum().backward()
        for encoder in found:
            gradients = [w.grad for w in model.encoders[encoder].parameters()]
            if any(g is not None and g.abs().max() > 0 for g in gradients):
                found[encoder].add(given)
    assert found == REACHES[method]
    for head in HEADS[method]:
        linear = model.heads[head.name]
        assert linear.out_features == clusters[head.labels]


def test_heads_are_renewed_with_every_iteration(make_config) -> None:
    model = XdcModel(make_config())
    seen = []
    for iteration in (0, 1, 0):
        model.renew_heads({"video": 3, "audio": 300}, iteration)
        seen.append(model.heads["video_from_audio"].weight.detach().clone())
        assert model.heads["video_from_audio"].bias.abs().max() == 0
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert float(seen[0].std()) == pytest.approx(0.01, rel=0.05)


def test_a_clip_without_what_a_head_needs_takes_no_part(make_config) -> None:
    """Clip 1 has no sound, clip 2 no picture, clip 3 no label of the pictures' clusters."""
    model = XdcModel(make_config(method="mdc")).eval()
    model.renew_heads({"video": 3, "audio": 3}, 0)
    frames = torch.randint(0, 256, (4, 4, 24, 24, 3), dtype=torch.uint8)
    batch = ClipBatch(frames, torch.rand(4, 40, 40).half() * 20)
    has = {"video": torch.tensor([1, 1, 0, 1]) > 0, "audio": torch.tensor([1, 0, 1, 1]) > 0}
    labels = {"video": torch.tensor([0, 1, -1, -1]), "audio": torch.tensor([2, -1, 0, 1])}
    sums = head_sums(model, batch, has, labels)
    counted = {
        "video_from_video": [0, 1],
        "video_from_audio": [0, 3],
        "audio_from_audio": [0, 2, 3],
        "audio_from_video": [0],
    }
    for name, rows in counted.items():
        encoder, source = name.split("_from_")
        vectors = model.encode(encoder, ClipBatch(frames[rows], batch.mel_BMR[rows]))
        logits, target = model.heads[name](vectors), labels[source][rows]
        expected = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        torch.testing.assert_close(sums[name][0], expected, rtol=1e-4, atol=1e-5)
        assert int(sums[name][1]) == int((logits.argmax(1) == target).sum())
