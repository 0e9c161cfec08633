"""Whether our network, losses and training step are those of MCN's released code, in numbers.

    python benchmarks/compare_official_mcn.py --official PATH_TO_CLONE [--embedding-dim 512]
        [--clips 24] [--frames 320] [--output compare_official_mcn.json]

PATH_TO_CLONE is a clone of the repository brian7685/Multimodal-Clustering-Network, which has no
licence and is no part of this project: its network (model_kmeans_ICCV.Net), its MMS loss and its
cluster loss run beside ours. The released network gets random weights; they are converted by
training.official_names; both see the same random clips, of which some end early, and take one
step of Adam. With the package fast_pytorch_kmeans installed its k-means runs beside ours too.
Exit code 1 where float64 differs by more than 1e-5 of the largest value.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from official_mcn import official_functions, official_net, use_clone
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pipeline.cli.options import load_config
from training.batches import ClipBatch, TrainBatch
from training.clips import Clip
from training.clustering import kmeans, label
from training.config import TrainConfig
from training.model import build_model
from training.official_names import from_official, official_name, read_sizes
from training.online_clustering import FUSED, OnlineClustering
from training.steps import Training, training_step

BOUND = 1e-5
LR = 1e-3
MODALITIES = ("audio", "video", "text")
"""In the order in which the released network gives them."""


def main() -> None:
    """Compares, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--embedding-dim", type=int, default=512)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--frames", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("compare_official_mcn.json"))
    arguments = parser.parse_args()
    use_clone(arguments.official)
    figures = {
        "float64": compare(arguments, torch.float64),
        "float32": compare(arguments, torch.float32),
    }
    figures["float64"] |= compare_kmeans(arguments.seed)
    largest = max(figures["float64"].values())
    sizes = {name: getattr(arguments, name) for name in ("embedding_dim", "clips", "frames")}
    result = figures | {"sizes": sizes, "bound": BOUND, "agrees": largest <= BOUND}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    show(figures)
    sys.exit(0 if largest <= BOUND else 1)


def compare(arguments: argparse.Namespace, dtype: torch.dtype) -> dict[str, float]:
    """The largest difference over the largest value, of each thing compared."""
    torch.manual_seed(arguments.seed)
    theirs = seasoned_net(arguments.embedding_dim).to(dtype)
    inputs = random_inputs(arguments, dtype)
    config = our_config(theirs.state_dict(), arguments.clips)
    ours = build_model(config, read_sizes(theirs.state_dict(), "Net").dims).to(dtype)
    ours.load_state_dict(from_official(theirs.state_dict(), "Net"))
    figures = compare_embeddings(ours.eval(), theirs.eval(), inputs, "evaluation")
    before = [{n: v.clone() for n, v in net.state_dict().items()} for net in (ours, theirs)]
    figures |= compare_embeddings(ours.train(), theirs.train(), inputs, "training")
    for net, state in zip((ours, theirs), before, strict=True):  # the running means have moved
        net.load_state_dict(state)
    centroids_KD = torch.randn(8, arguments.embedding_dim).to(dtype)
    expected = official_step(theirs, inputs, centroids_KD)
    found = our_step(ours, inputs, centroids_KD, config)
    for name, value in expected.items():
        figures[f"loss: {name}"] = abs(found[name] - value) / abs(value)
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    figures["gradients, the worst weight"] = max(
        difference(weight.grad, gradients[official_name(name)].reshape(weight.shape))
        for name, weight in ours.named_parameters()
    )
    if dtype == torch.float64:
        # in float32 the rounding of a gradient near 0 decides which way Adam's first step goes
        after = from_official(theirs.state_dict(), "Net")
        moved = dict(ours.named_parameters())
        figures["weights after the step, the worst"] = max(
            difference(weight.detach() - before[0][name], after[name] - before[0][name])
            for name, weight in moved.items()
        )
        figures["running statistics after the step, the worst"] = max(
            difference(value, after[name])
            for name, value in ours.state_dict().items()
            if name not in moved
        )
    return figures


def seasoned_net(embedding_dim: int) -> nn.Module:
    """The released network, as after some training: fresh norms would hide a mix-up."""
    net = official_net(embedding_dim)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return net


def random_inputs(arguments: argparse.Namespace, dtype: torch.dtype) -> ClipBatch:
    """Clips as the released loader makes them; every third ends early and is padded with 0."""
    B, T = arguments.clips, arguments.frames
    rng = np.random.default_rng(arguments.seed)
    visual_BV = np.abs(rng.normal(size=(B, 4096)))
    spectrogram_BMT = np.clip(rng.normal(-40, 12, size=(B, 40, T)), -80, 0)
    frames_B = np.where(np.arange(B) % 3 == 0, T // 2 + 5, T)
    words_B = np.where(np.arange(B) % 4 == 0, 7, 20)
    text_BSE = rng.normal(size=(B, 20, 300)) * 0.15
    for i in range(B):
        spectrogram_BMT[i, :, frames_B[i] :] = 0
        text_BSE[i, words_B[i] :] = 0
    halves = visual_BV.reshape(B, 2, 2048)
    visual_BV = (halves / np.linalg.norm(halves, axis=2, keepdims=True)).reshape(B, 4096)
    return ClipBatch(
        visual_BV=torch.tensor(visual_BV, dtype=dtype),
        parts_BP=torch.ones(B, 2, dtype=torch.bool),
        spectrogram_BMT=torch.tensor(spectrogram_BMT, dtype=dtype),
        frames_B=torch.tensor(frames_B),
        text_BSE=torch.tensor(text_BSE, dtype=dtype),
        rows_B=torch.tensor(words_B),
        present={name: torch.ones(B, dtype=torch.bool) for name in MODALITIES},
    )


def our_config(official: dict[str, Tensor], clips: int) -> TrainConfig:
    """Preset mcn_official with the sizes of the released network at hand."""
    config = load_config("mcn_official", None, ["train.clustering.queue_rows=0"]).train
    sizes = read_sizes(official, "Net").model
    same = {"mask_padding": config.model.mask_padding, "similarity": config.model.similarity}
    return config.model_copy(update={"model": sizes.model_copy(update=same)})


def compare_embeddings(
    ours: nn.Module, theirs: nn.Module, inputs: ClipBatch, mode: str
) -> dict[str, float]:
    """Of both networks, in the mode they are in."""
    with torch.no_grad():
        mine = ours(inputs).embeddings
        others = dict(zip(MODALITIES, call(theirs, inputs), strict=False))
    return {f"{mode}: {n} embedding": difference(mine[n], others[n]) for n in MODALITIES}


def call(theirs: nn.Module, inputs: ClipBatch) -> tuple[Tensor, ...]:
    """Audio, video, text, reconstruction loss."""
    frames_B = inputs.frames_B.clone().as_subclass(WholeFrames)
    outputs: tuple[Tensor, ...] = theirs(
        inputs.visual_BV, inputs.spectrogram_BMT, frames_B, inputs.text_BSE
    )
    return outputs


class WholeFrames(Tensor):
    """Whole numbers that divide in place as in the PyTorch of the released code, rounding down;
    today's refuses."""

    def div_(self, other: float) -> Tensor:  # type: ignore[override]
        """self // other."""
        return self.floor_divide_(other)


def official_step(theirs: nn.Module, inputs: ClipBatch, centroids_KD: Tensor) -> dict[str, float]:
    """One step of Adam by the released losses, weighed as its README's command does."""
    optimiser = torch.optim.Adam(theirs.parameters(), lr=LR)
    mms = importlib.import_module("loss").MMS_loss()
    contrast = official_functions({"args": SimpleNamespace(nce=0)})["cluster_contrast"]
    audio, video, text, rebuilt = call(theirs, inputs)
    fused_BD = ((video + audio + text) / 3).detach()
    labels_B = label(fused_BD, centroids_KD, "cosine_mean")
    losses = {
        "mms_text_video": mms(text @ video.T),
        "mms_audio_text": mms(audio @ text.T),
        "mms_audio_video": mms(audio @ video.T),
        "clustering": sum(
            contrast(z_BD, centroids_KD, labels_B, len(z_BD)) for z_BD in (video, audio, text)
        )
        / 3,
        "reconstruction": rebuilt.mean(),
    }
    total = sum(losses.values()) + 49 * losses["reconstruction"]
    total.backward()
    optimiser.step()
    return {name: float(value.detach()) for name, value in losses.items()} | {
        "loss": float(total.detach())
    }


def our_step(
    model: nn.Module, inputs: ClipBatch, centroids_KD: Tensor, config: TrainConfig
) -> dict[str, float]:
    """One `training_step` between two refits, with the same centroids."""
    clustering = OnlineClustering(
        config.clustering, model.modalities, len(centroids_KD), centroids_KD.shape[1]
    ).to(centroids_KD.dtype)
    part = clustering.sets[FUSED]
    part.centroids_KD.copy_(centroids_KD)
    part.started.fill_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=LR)
    training = Training(
        model=model,
        optimiser=optimiser,
        schedule=LambdaLR(optimiser, lambda step: 1.0),
        clustering=clustering,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        step=1,
    )
    B = len(inputs.visual_BV)
    batch = TrainBatch(
        inputs,
        keys=tuple(f"video{i}" for i in range(B)),
        clips=(Clip(0.0, 10.0),) * B,
        places=tuple(range(B)),
        videos=tuple(f"video{i}" for i in range(B)),
    )
    return training_step(training, batch, config, torch.device("cpu")).losses


def compare_kmeans(seed: int) -> dict[str, float]:
    """Cosine k-means from the same start, if the library of the released code is installed."""
    try:
        library = importlib.import_module("fast_pytorch_kmeans")
    except ModuleNotFoundError:
        return {}
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(32, 64)) * 2
    rows = torch.tensor(centres[rng.integers(32, size=4000)] + rng.normal(size=(4000, 64)))
    theirs = library.KMeans(n_clusters=32, mode="cosine", max_iter=100, tol=1e-4)
    theirs.fit_predict(rows.clone(), centroids=rows[:32].clone())
    ours = kmeans(rows, rows[:32], "cosine_mean", "zero")
    return {"k-means: centroids": difference(ours.centroids_KD, theirs.centroids)}


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, over the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def show(figures: dict[str, dict[str, float]]) -> None:
    """As a table."""
    table = Table("largest difference / largest value", "float64", "float32")
    for name, value in figures["float64"].items():
        other = figures["float32"].get(name)
        table.add_row(name, f"{value:.1e}", "" if other is None else f"{other:.1e}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
