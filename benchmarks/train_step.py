"""A whole training step, ours and the released code's, on the same weights and clips."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from figures import say
from measuring import Cost, alternate, ratio, timed
from official_mcn import OfficialTraining, official_net
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.flop_counter import FlopCounterMode
from train_data import CLIPS, CLIPS_PER_VIDEO, CLUSTERS, CPU, QUEUE, VIDEOS, D, Measured

from pipeline.cli.options import load_config
from training.batches import ClipBatch, TrainBatch
from training.clips import Clip
from training.config import TrainConfig
from training.model import build_model
from training.official_names import from_official, read_sizes
from training.online_clustering import FUSED, OnlineClustering
from training.steps import Training, training_step


def measure_step(repeats: int, *, sound: bool, facts: dict[str, Any]) -> Measured:
    """One training step of both, between two refits and with one. Without `sound`, the sound's
    network is replaced by one number a clip on either side."""
    torch.manual_seed(0)
    net = official_net(D)
    ours, config = our_training(net)
    queue_QD = torch.randn(QUEUE, D) * 0.05
    centroids_KD = queue_QD[:CLUSTERS].clone()
    theirs = OfficialTraining(net, CLIPS, CLUSTERS, queue_QD.clone())
    part = ours.clustering.sets[FUSED]
    part.queue.push(queue_QD)
    if not sound:
        frames_BCT = torch.rand(CLIPS, 1024, 8)
        net.DAVEnet = Stub(frames_BCT)
        ours.model.davenet = Stub(frames_BCT.mean(2))
    inputs = random_inputs()
    data = official_batch(inputs)
    batch = TrainBatch(
        inputs,
        keys=tuple(f"v{i // CLIPS_PER_VIDEO}" for i in range(CLIPS)),
        clips=tuple(Clip(10.0 * i, 10.0 * i + 10) for i in range(CLIPS)),
        places=tuple(i // CLIPS_PER_VIDEO for i in range(CLIPS)),
        videos=tuple(f"v{i}" for i in range(VIDEOS)),
    )

    def our_step(step: int) -> Callable[[], Cost]:
        def run() -> Cost:
            part.centroids_KD.copy_(centroids_KD)
            part.started.fill_(True)
            ours.step = step
            return timed(lambda: training_step(ours, batch, config, CPU))

        return run

    def their_step(*, refit: bool) -> Callable[[], Cost]:
        return lambda: timed(lambda: theirs.step(data, centroids_KD.clone(), refit=refit))

    what = "a whole step" if sound else "a step without the sound's network"
    runs = {
        f"released code: {what}": their_step(refit=False),
        f"ours: {what}": our_step(1),
        f"released code: {what}, with k-means": their_step(refit=True),
        f"ours: {what}, with k-means": our_step(0),
    }
    for run in runs.values():
        run()  # the first of its kind allocates
    costs = alternate(runs, repeats, say)
    seconds = {name: [cost.cpu for cost in found] for name, found in costs.items()}
    limits = {"": 1.2 if sound else 1.5, ", with k-means": 1.2 if sound else 2.0}
    if sound:
        facts |= matrix_share(lambda: our_step(1)().wall, lambda: our_step(1)())
    return costs, [
        ratio(
            f"{what}{kind}: released / ours",
            seconds[f"released code: {what}{kind}"],
            seconds[f"ours: {what}{kind}"],
            at_least=limit,
        )
        for kind, limit in limits.items()
    ]


class Stub(nn.Module):
    """Gives the same numbers whatever it is asked."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: Tensor) -> Tensor:
        """As at the start."""
        return self._output


def our_training(net: nn.Module) -> tuple[Training, TrainConfig]:
    """A training of ours with the released network's weights and settings."""
    sets = [f"train.model.embedding_dim={D}", "train.precision=float32"]
    config = load_config("mcn_official", None, sets).train
    state = net.state_dict()
    model = build_model(config, read_sizes(state, "Net").dims)
    model.load_state_dict(from_official(state, "Net"))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    training = Training(
        model=model.train(),
        optimiser=optimiser,
        schedule=LambdaLR(optimiser, lambda step: 1.0),
        clustering=OnlineClustering(config.clustering, model.modalities, CLUSTERS, D),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    return training, config


def random_inputs() -> ClipBatch:
    """64 clips of ten seconds, 20 words each."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    return ClipBatch(
        visual_BV=normalize(floats(CLIPS, 4096).abs()),
        parts_BP=torch.ones(CLIPS, 2, dtype=torch.bool),
        spectrogram_BMT=(10 * floats(CLIPS, 40, 1000) - 40).clamp(-80, 0),
        frames_B=torch.full((CLIPS,), 1000),
        text_BSE=0.15 * floats(CLIPS, 20, 300),
        rows_B=torch.full((CLIPS,), 20),
        present={name: torch.ones(CLIPS, dtype=torch.bool) for name in ("video", "audio", "text")},
    )


def official_batch(inputs: ClipBatch) -> dict[str, Tensor]:
    """The same as the released loader gives them."""
    shape = (VIDEOS, CLIPS_PER_VIDEO)
    return {
        "video": inputs.visual_BV.view(*shape, -1),
        "audio": inputs.spectrogram_BMT.view(*shape, 40, 1000),
        "nframes": inputs.frames_B.view(*shape).int(),
        "text": inputs.text_BSE.view(*shape, 20, 300),
    }


def matrix_share(seconds: Callable[[], float], step: Callable[[], object]) -> dict[str, float]:
    """Of a whole step: operations, how many a second, and the share of a large matrix product's."""
    with FlopCounterMode(display=False) as counter:
        step()
    rate = counter.get_total_flops() / min(seconds() for _ in range(3)) / 1e9
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    best = min(timed(lambda: a @ b).wall for _ in range(10))
    product = 2 * 2048**3 / best / 1e9
    return {
        "step_gflop": round(counter.get_total_flops() / 1e9, 1),
        "step_gflop_per_second": round(rate, 1),
        "matrix_product_gflop_per_second": round(product, 1),
        "share_of_matrix_product_rate": round(rate / product, 3),
    }
