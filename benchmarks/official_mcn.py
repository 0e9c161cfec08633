"""MCN's released code as a peer: its network, its losses, its training step, its clip loader.

It comes from a clone of brian7685/Multimodal-Clustering-Network, which has no licence and is no
part of this project. Its training script cannot be imported (it trains when it is), so single
functions are taken out of it.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

VIDEO, WORDS = 4096, 300
"""Widths of the released run's features."""
SCRIPT_BATCH = 4096
"""Clips a batch that the released queue is written for."""


def use_clone(clone: Path) -> None:
    """Makes the modules of a clone importable."""
    sys.path.insert(0, str(clone))


def official_net(embedding_dim: int) -> nn.Module:
    """The released network of the README's command, but for its embedding size."""
    module = importlib.import_module("model_kmeans_ICCV")
    net: nn.Module = module.Net(
        embd_dim=embedding_dim,
        video_dim=VIDEO,
        we_dim=WORDS,
        tri_modal=True,
        recon=1,
        recon_size=1024,
    )
    return net


def official_functions(known: Mapping[str, Any], batch: int = SCRIPT_BATCH) -> dict[str, Any]:
    """The functions of the training script, for a batch of so many clips; `known` are the names
    that they use beside torch's."""
    script = Path(str(importlib.import_module("loss").__file__)).with_name("train_tri_kmeans.py")
    tree = ast.parse(script.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == SCRIPT_BATCH:
            node.value = batch
    names: dict[str, Any] = {"th": torch, "F": nn.functional, "print": lambda *_: None, **known}
    exec(compile(tree, str(script), "exec"), names)
    return names


class OfficialTraining:
    """A training run by the released step, on a CPU: what it carries from step to step."""

    def __init__(self, net: nn.Module, batch: int, clusters: int, queue: Tensor) -> None:
        """`queue` holds (queue, D) rows, as a run's that has been going for a while."""
        kmeans = importlib.import_module("fast_pytorch_kmeans").KMeans
        arguments = SimpleNamespace(
            tri_modal=1, tri_modal_fuse=0, recon=1, withMLP=0, rand=0, joint=0, no_audio=0,
            no_video=0, kmeans=1, use_queue=1, fastC=1, queue_size=20, cluster_size=clusters,
            mean=0, nce=0, clu_lamb=1,
        )  # fmt: skip
        self._step: Callable[..., Any] = official_functions(
            {"args": arguments, "KMeans": kmeans}, batch
        )["TrainOneBatch"]
        self._loss = importlib.import_module("loss").MMS_loss()
        self._net = net.train()
        self._optimiser = torch.optim.Adam(net.parameters(), lr=1e-4)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: 1.0)
        self._queue = queue
        torch.Tensor.cuda = lambda self, *_: self  # type: ignore[method-assign]  # no GPU here

    def step(self, data: Mapping[str, Tensor], centroids_KD: Tensor, *, refit: bool) -> Tensor:
        """One step from these centroids; the centroids after it."""
        _, self._queue, _, centroids = self._step(
            self._net, self._optimiser, data, self._loss, self._queue, True, self._schedule,
            0, 0 if refit else 1, centroids_KD,
        )  # fmt: skip
        found: Tensor = centroids
        return found


def official_loader(folder: Path, list_name: str, words: Any, clips: int) -> Any:
    """The released data set over the features that `pipeline export --format howto100m` wrote."""
    from pipeline import storage

    module = importlib.import_module("youtube_dataloader")
    return module.Youtube_DataLoader(
        csv=str(folder / list_name),
        features_path=str(folder),
        features_path_audio=str(folder),
        caption=storage.read_json(str(folder / "caption.json")),
        we=words,
        min_time=10.0,
        max_words=20,
        n_pair=clips,
        num_audio_frames=1000,
    )
