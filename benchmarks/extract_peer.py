"""Videos per CPU second against a peer: v-iashin/video_features.

    resnet    ResNet-152 at 1 frame/s            ours: the reference preset's visual_2d, cropped
    r21d      R(2+1)D-18, 16 frames at 24/s      ours: the reference preset's visual_3d
    vggish    VGGish on 0.96 s of sound          ours: onnx_audio, the same network as .onnx
    …_bfloat16                                   ours with `precision: bfloat16`, the peer's float32

The peer is a clone beside this project and runs in an environment of its own, for it needs an older
torchvision (the one that its conda_env.yml names, with torchvision.io.read_video):

    git clone https://github.com/v-iashin/video_features PEER
    python3.11 -m venv PEER_VENV
    PEER_VENV/bin/pip install torch==2.1.2 torchvision==0.16.2 numpy==1.26.3 av==12.3.0 \
        opencv-python-headless==4.8.1.78 omegaconf==2.3.0 tqdm==4.66.1 resampy==0.4.2 \
        soundfile==0.12.1 numba==0.58.1 scipy==1.11.4 pillow==10.0.1 onnx==1.15.0

Both sides load the same files of weights: those in TORCH_HOME/hub/checkpoints and in the clone's
models/vggish/hub/checkpoints where they are there, else random ones, which cost as much. Both take
the same videos, frame rate, batch size, number of threads and core, and are counted as whole
commands over all videos, children included; `net` is without what either takes for no video.

Where the two differ: the peer scales pictures with PIL or torch (short side 256, cut to 224; 171 x
128, cut to 112), we with ffmpeg (short side 224; 112). VGGish's logarithm adds 0.01, our patches
add YAMNet's 0.001. The peer cuts 0.96 s of sound, we 0.975 s; both step 0.96 s.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from extract_workers import extract_command, no_videos, video_list
from measuring import Command, Cost, Ratio, alternate, ratio, run

from pipeline.samples import read_shard

AT_LEAST = 2.5
BFLOAT16 = "_bfloat16"
WHAT = "videos per CPU second, ours / peer"
PREPARE = """
import json, os, sys
from pathlib import Path
import numpy, torch, torchvision
from models.vggish.vggish_src.vggish_slim import VGG, make_layers

def saved(path, make):
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), path)
    return str(path)

torch.manual_seed(0)
hub, vggish = Path(sys.argv[1], "hub/checkpoints"), Path("models/vggish/hub/checkpoints")
found = {}
for name in ("resnet152", "r2plus1d_18"):
    key = "IMAGENET1K_V1" if name == "resnet152" else "DEFAULT"
    file = os.path.basename(torchvision.models.get_model_weights(name)[key].url)
    found[name] = saved(hub / file, torchvision.models.get_model(name).state_dict)
net = VGG(make_layers()).eval()
weights = saved(vggish / "vggish-10086976.pth", net.state_dict)
saved(vggish / "vggish_pca_params-970ea276.pth", lambda: {
    "pca_eigen_vectors": numpy.eye(128, dtype="float32"), "pca_means": numpy.zeros(128, "float32")})
net.load_state_dict(torch.load(weights))
found["vggish"] = str(Path(sys.argv[1], "vggish.onnx"))
axes = {"patch": {0: "batch"}, "embedding": {0: "batch"}}
torch.onnx.export(net, torch.zeros(1, 1, 96, 64), found["vggish"], input_names=["patch"],
                  output_names=["embedding"], dynamic_axes=axes)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Peer:
    """Where it is, and which of PAIRINGS are run."""

    clone: Path
    python: Path
    pairings: tuple[str, ...]


@dataclass(frozen=True)
class Pairing:
    """One extractor of the peer and ours with the same network."""

    name: str
    network: str
    options: tuple[str, ...]
    """Of the peer's command."""
    feature: str
    """What its file names end in."""
    settings: dict[str, Any]
    """Of our extractor, without its weights."""
    at_least: float | None = AT_LEAST


RESNET = ("feature_type=resnet", "model_name=resnet152", "extraction_fps=1", "batch_size=16")
IMAGE = {"kind": "image", "model": "resnet152", "rate": 1.0, "size": 224, "fit": "crop",
         "batch_size": 16}  # fmt: skip
R21D = ("feature_type=r21d", "model_name=r2plus1d_18_16_kinetics")
ACTION = {"kind": "action", "model": "r2plus1d_18", "window": 16, "size": 112, "batch_size": 1}
PAIRINGS = (
    Pairing("resnet", "resnet152", RESNET, "resnet", IMAGE),
    Pairing("r21d", "r2plus1d_18", (*R21D, "extraction_fps=24"), "r21d",
            {**ACTION, "rate": 24.0}),
    Pairing("r21d_every_frame", "r2plus1d_18", R21D, "r21d",
            {**ACTION, "rate": 30.0}, at_least=None),
    Pairing("resnet_bfloat16", "resnet152", RESNET, "resnet",
            {**IMAGE, "precision": "bfloat16"}, at_least=None),
    Pairing("r21d_bfloat16", "r2plus1d_18", (*R21D, "extraction_fps=24"), "r21d",
            {**ACTION, "rate": 24.0, "precision": "bfloat16"}, at_least=None),
    Pairing(
        "vggish", "vggish", ("feature_type=vggish",), "vggish",
        {"kind": "onnx_audio", "input": "yamnet_patch", "window": 0.975, "hop": 0.96,
         "batch_size": 16},
    ),
)  # fmt: skip

NAMES = tuple(pairing.name for pairing in PAIRINGS)


def measure_peer(
    peer: Peer, videos: Sequence[Path], folder: Path, core: int, repeats: int,
    say: Callable[[str], None],
) -> tuple[dict[str, list[Cost]], list[Ratio]]:  # fmt: skip
    """Each pairing in turn, then all of ours in one run against the peer's, which is one each."""
    weights = prepare(peer, folder, core)
    costs: dict[str, list[Cost]] = {}
    ratios: list[Ratio] = []
    pairings = [pairing for pairing in PAIRINGS if pairing.name in peer.pairings]
    for pairing in pairings:
        name, whom = pairing.name, pairing.name.removesuffix(BFLOAT16)
        ours = Ours(name, {name: ours_of(pairing, weights)}, folder, core)
        parts = {
            f"{name}: ours": lambda run=ours.run: run(videos),
            f"{name}: ours, no video": lambda run=ours.run: run([]),
        }
        if f"{whom}: peer" not in costs:  # it has no other precision: once is enough
            theirs = Theirs(peer, pairing, folder, core)
            check_rows(theirs, ours, videos[0])
            parts |= {
                f"{whom}: peer": lambda run=theirs.run: run(videos),
                f"{whom}: peer, no video": lambda run=theirs.run: run([]),
            }
        costs |= alternate(parts, repeats, say)
        ratios += ratios_of(name, whom, costs, pairing.at_least)
    more, compared = measure_at_once(pairings, weights, folder, core, repeats, costs, videos, say)
    return costs | more, [*ratios, *compared]


def measure_at_once(
    pairings: Sequence[Pairing], weights: dict[str, str], folder: Path, core: int, repeats: int,
    costs: dict[str, list[Cost]], videos: Sequence[Path], say: Callable[[str], None],
) -> tuple[dict[str, list[Cost]], list[Ratio]]:  # fmt: skip
    """One run of ours with all tracks, and one with their networks in bfloat16 where those were
    asked for, against the peer's extractors in turn."""
    by_name = {pairing.name: pairing for pairing in pairings}
    counted = [pairing for pairing in pairings if pairing.at_least is not None]
    if not counted:
        return {}, []
    quick = [by_name.get(pairing.name + BFLOAT16, pairing) for pairing in counted]
    ways = {"at once: ours": counted} | ({} if quick == counted else {"at once: bfloat16": quick})
    parts = {}
    for number, (name, chosen) in enumerate(ways.items()):
        tracks = {p.name: ours_of(p, weights) for p in chosen}
        together = Ours(f"at_once{number}", tracks, folder, core)
        parts[name] = lambda run=together.run: run(videos)
    found = alternate(parts, repeats, say)
    runs = zip(*(costs[f"{pairing.name}: peer"] for pairing in counted), strict=True)
    in_turn = [sum(cost.cpu for cost in each) for each in runs]
    what = " + ".join(pairing.name for pairing in counted)
    ratios = [
        ratio(f"{WHAT}: {what}, {name}", in_turn, [c.cpu for c in found[name]], at_least=AT_LEAST)
        for name in ways
    ]
    return found, ratios


def ratios_of(
    name: str, whom: str, costs: dict[str, list[Cost]], at_least: float | None
) -> list[Ratio]:
    """Of whole commands, and of what the videos alone took; the peer's stand under `whom`."""
    sides = {"peer": f"{whom}: peer", "ours": f"{name}: ours"}
    cpu = {who: [cost.cpu for cost in costs[side]] for who, side in sides.items()}
    empty = {who: [cost.cpu for cost in costs[f"{side}, no video"]] for who, side in sides.items()}
    net = {who: [a - b for a, b in zip(cpu[who], empty[who], strict=True)] for who in cpu}
    return [
        ratio(f"{WHAT}: {name}", cpu["peer"], cpu["ours"], at_least=at_least),
        ratio(f"{WHAT}: {name}, net", net["peer"], net["ours"]),
    ]


def ours_of(pairing: Pairing, weights: dict[str, str]) -> dict[str, Any]:
    """The settings of our extractor with the weights that both sides load."""
    return pairing.settings | {"weights": weights[pairing.network]}


def prepare(peer: Peer, folder: Path, core: int) -> dict[str, str]:
    """The weights that both sides load, by network; VGGish as .onnx for ours."""
    script, log = folder / "prepare.py", folder / "prepare.log"
    script.write_text(PREPARE)
    line = [str(peer.python), str(script), str(folder)]
    run(Command(line, {core}, peer.clone, {"PYTHONPATH": str(peer.clone)}), log)
    weights: dict[str, str] = json.loads(log.read_text().splitlines()[-1])
    return weights


class Theirs:
    """One of the peer's extractors as a whole command."""

    def __init__(self, peer: Peer, pairing: Pairing, folder: Path, core: int) -> None:
        self._peer, self._pairing, self._core, self._home = peer, pairing, core, folder
        self._folder = new_folder(folder, f"peer_{pairing.name}")

    def run(self, videos: Sequence[Path]) -> Cost:
        """Stops the benchmark where a video was not extracted."""
        listed, output, log = (self._folder / name for name in ("videos.txt", "output", "log"))
        listed.write_text("".join(f"{video}\n" for video in videos))
        shutil.rmtree(output, ignore_errors=True)
        line = [str(self._peer.python), "main.py", *self._pairing.options, "device=cpu",
                "on_extraction=save_numpy", f"output_path={output}",
                f"tmp_path={self._folder / 'tmp'}", f"file_with_video_paths={listed}"]  # fmt: skip
        variables = {"TORCH_HOME": str(self._home)}
        cost = run(Command(line, {self._core}, self._peer.clone, variables), log)
        made = len(self._features())
        if made != len(videos):  # it goes on after errors, and says so in its log alone
            raise SystemExit(f"the peer made {made} of {len(videos)} files: {log.read_text()}")
        return cost

    def _features(self) -> list[Path]:
        return list((self._folder / "output").rglob(f"*_{self._pairing.feature}.npy"))

    def shape(self) -> tuple[int, ...]:
        """Of the features of the one video that was run last."""
        (path,) = self._features()
        shape: tuple[int, ...] = np.load(path).shape
        return shape


class Ours:
    """Some of our extractors, by track name, as one whole command."""

    def __init__(self, name: str, tracks: dict[str, Any], folder: Path, core: int) -> None:
        self._core, self._folder = core, new_folder(folder, f"ours_{name}")
        self._config = self._folder / "config.yaml"
        off = dict.fromkeys(("visual_2d", "visual_3d", "audio"))
        extract = {"extractors": off | tracks, "speech": None, "text": None}
        self._config.write_text(yaml.safe_dump({"extract": extract}))

    def run(self, videos: Sequence[Path]) -> Cost:
        """Stops the benchmark where a video was not extracted."""
        dataset = self._folder / "dataset"
        shutil.rmtree(dataset, ignore_errors=True)
        listed = self._folder / "videos.csv"
        source = video_list(listed, videos) if videos else no_videos(self._folder, 1)
        line = [*extract_command(source, dataset), "--config", str(self._config)]
        command = Command(line, {self._core}, allowed_codes=(0,) if videos else (3,))
        return run(command, self._folder / "log")

    def shape(self) -> tuple[int, ...]:
        """Of the one track of the one video that was run last."""
        (sample,) = read_shard(str(self._folder / "dataset"), 0)
        (track,) = sample.tracks.values()
        return track.rows.shape


def new_folder(parent: Path, name: str) -> Path:
    """Made; its path has no spaces: the peer splits its ffmpeg commands at them."""
    folder = parent / name
    folder.mkdir()
    return folder


def check_rows(theirs: Theirs, ours: Ours, video: Path) -> None:
    """Whether both give as many rows of a video, as wide; but for the last one, which the peer
    drops where it is not whole. Run unmeasured, this warms caches: numba compiles, files are read.
    """
    theirs.run([video])
    ours.run([video])
    (a, b), (c, d) = theirs.shape(), ours.shape()
    if b != d or abs(a - c) > 1:
        raise SystemExit(f"not the same work: the peer {(a, b)}, we {(c, d)}")
