"""Settings of `run train --method xdc|sdc|mdc|cdc`.

`paper` is XDC (Alwassel et al., NeurIPS 2020, arXiv 1911.12667). No training code of it was
published: where a number is unknown the field says so, and why the default is what it is.
"""

from typing import Literal

from pydantic import Field

from extractors.xdc_config import AudioEncoderConfig, VideoEncoderConfig
from pipeline.settings import Settings

XdcMethod = Literal["xdc", "sdc", "mdc", "cdc", "supervised"]


class XdcClusteringConfig(Settings):
    """Pseudo-labels: what is clustered, and how."""

    clusters: int = Field(default=256, ge=2)
    """k (paper: 64 to 1,024; best around 128 to 256). Capped at half the videos; the log says
    so."""
    clips: int = Field(default=1, ge=1)
    """Clips of a video, uniformly spaced, whose vectors are averaged into the one that is clustered
    (paper: its videos are clips of 10 s; more for longer ones)."""
    features: Literal["raw", "l2", "pca"] = "l2"
    """raw: the encoder's vector. l2: scaled to unit length, so that loud or lively clips are no
    clusters of their own. pca: whitened, then unit length, as DeepCluster (paper: unknown). The
    concatenation (cdc) is of what this makes of either modality."""
    pca_dim: int = Field(default=256, ge=1)
    """Columns kept by `pca`, at most those there are (DeepCluster: 256)."""
    start: Literal["k-means++", "random"] = "k-means++"
    """Of k-means. k-means++: rows far apart (Arthur and Vassilvitskii 2007), of a sample of 64 a
    cluster. random: FAISS's own, as DeepCluster, which loses well-parted groups where k is small.
    """
    kmeans_iterations: int = Field(default=20, ge=1)
    """Passes over all rows, at most (DeepCluster: 20). Clusters that empty are split off the
    largest ones, as in FAISS."""
    min_cluster_videos: int = Field(default=1, ge=1)
    """A cluster of fewer videos is tiny (paper: unknown; 1: none is)."""
    tiny_clusters: Literal["merge", "ignore"] = "merge"
    """merge: its videos go to the nearest cluster that is not tiny. ignore: they have no label in
    this iteration."""


class XdcSamplingConfig(Settings):
    """Which clips make an epoch, and who reads them."""

    batch_clips: int = Field(default=32, ge=2)
    """Clips in a batch, over all workers together (paper: 32 a GPU, in most cases)."""
    clips_per_video: int = Field(default=1, ge=1)
    """Clips drawn at random times from each video in an epoch, on average (paper: an epoch is a
    number of drawn clips, which may exceed that of the videos)."""
    over: Literal["natural", "clusters"] = "natural"
    """natural: each video equally often. clusters: each cluster equally often, its videos at
    random, as DeepCluster; the label sets that train a head take turns (paper: unknown)."""
    flip: bool = True
    """Mirror every second clip."""
    held_out: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the videos that are clustered and never trained on: the loss on their pseudo-labels
    decides when an iteration is over (paper: "until the validation loss saturates")."""
    loader_workers: int = Field(default=1, ge=0, le=64)
    """Processes that read and decode clips for each training process; 0: it does so itself. No
    effect on results."""
    proxy_reader: Literal["packets", "decord"] = "packets"
    """What gives a clip's frames out of a proxy, the same bits. packets: its bytes from key
    frame to last frame alone, through one libavcodec decoder for all proxies. decord:
    opens each proxy whole, some five times the CPU time; also for proxies that were coded
    elsewhere, with B-frames. No effect on results."""
    open_proxies: int = Field(default=64, ge=1)
    """Proxies that each reading process keeps: their tables of frames, some 20 kB for a minute of
    video; with decord, opened ones. No effect on results."""


class XdcOptimiserConfig(Settings):
    """Optimiser and learning rate, begun anew in each iteration."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd with momentum (paper); adamw suits small networks."""
    lr: float = Field(default=0.01, gt=0)
    """Peak learning rate (paper: unknown; 0.01 is VMZ's for R(2+1)D from scratch)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd (VMZ: 0.9)."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """(VMZ: 1e-4)"""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up at the start of each iteration, when the heads are new; at most a
    tenth of its steps."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up. constant suits a stop by patience; cosine falls to zero over `epochs`."""


class XdcConfig(Settings):
    """`xdc:` in a preset."""

    method: XdcMethod = "xdc"
    """Whose pseudo-labels train which encoder: xdc, each by the other's; sdc, each by its own; mdc,
    each by both; cdc, both by those of the concatenation; supervised, both by the plan's labels, as
    a reference (one iteration is enough). `--method` sets it."""
    seed: int = Field(default=1, ge=0)
    """Of the weights, the held-out videos, k-means, the clips."""
    iterations: int = Field(default=5, ge=0)
    """Rounds of clustering and training, at most (paper: unknown). 0 gives the encoders as they
    start, to compare with."""
    settle_nmi: float | None = Field(default=None, gt=0, le=1)
    """Stop once the pseudo-labels agree with those of the last iteration so well (normalised mutual
    information, mean over the label sets). null: only `iterations` counts."""
    epochs: int = Field(default=10, ge=1)
    """In an iteration, at most."""
    patience: int | None = Field(default=2, ge=1)
    """An iteration is over after so many epochs in a row without a better held-out loss. null: it
    takes all `epochs`."""
    min_improvement: float = Field(default=0.001, ge=0, lt=1)
    """Share by which a loss must be lower to count as better."""
    input: Literal["auto", "proxies", "raw"] = "auto"
    """What clips of frames are read from. proxies: those in the shards. raw: the videos' own files,
    where the dataset lists them, by one ffmpeg child a clip: no proxies are needed, any rate and
    size can be had, and a clip costs far more (a remote file is fetched for each). Its frames are
    those that extraction decodes at these times; `key_frames_only` is left aside. A file that is
    gone or damaged takes no part with its picture: it is named, and counted as `unread_share`.
    auto: proxies where the dataset has them, else raw."""
    audio_track: str = "mel"
    """The track of log-mel rows, of `{kind: log_mel, front_end: xdc}`: computed once a video when
    extracting, cut here."""
    video: VideoEncoderConfig = VideoEncoderConfig()
    """The video encoder and its clips."""
    video_weights: str | None = None
    """Start the video encoder from a file: of a run (encoders/video_*.safetensors) or a published
    one (r2plus1d_18_xdc_*.pth). null: from scratch (paper)."""
    audio: AudioEncoderConfig = AudioEncoderConfig()
    """The audio encoder and its clips."""
    clustering: XdcClusteringConfig = XdcClusteringConfig()
    """Pseudo-labels."""
    sampling: XdcSamplingConfig = XdcSamplingConfig()
    """Clips."""
    optimiser: XdcOptimiserConfig = XdcOptimiserConfig()
    """Optimiser and schedule."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in on CUDA, by autocast. Always float32 on a CPU."""
    checkpoint_steps: int = Field(default=1000, ge=1)
    """Steps from one checkpoint to the next."""
    checkpoint_epochs: int = Field(default=1, ge=1)
    """A checkpoint is also written after every so many epochs of an iteration, and at its end."""
    keep_last: int = Field(default=1, ge=1)
    """Checkpoints kept, the newest ones."""
    log_steps: int = Field(default=10, ge=1)
    """Steps from one row of metrics.jsonl and TensorBoard to the next."""
    wandb_project: str | None = None
    """Log to this project of Weights & Biases too; its package must be installed. null: never."""


FREE_KEYS = frozenset(
    {
        "checkpoint_steps",
        "checkpoint_epochs",
        "keep_last",
        "wandb_project",
        "sampling.loader_workers",
        "sampling.open_proxies",
    }
)
"""Settings that change no number of a run, so they may differ when it resumes."""
