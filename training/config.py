"""Settings of `run train`. Defaults mend the official code; each field names the official value.

The architecture and its numbers follow MCN (Chen et al., ICCV 2021, arXiv 2104.12671) and its
released code; `official` below means what that code does.
"""

from typing import Literal

from pydantic import Field

from pipeline.settings import Settings


class SamplingConfig(Settings):
    """Which clips are drawn and how they are cut from the tracks."""

    visual_tracks: tuple[str, ...] = ("visual_2d", "visual_3d")
    """Tracks of the picture. Each is max-pooled over the clip and L2-normalised, then they are
    concatenated in this order (paper: 2D, then 3D)."""
    audio_track: str = "audio"
    """Track of log-mel rows in decibels relative to the file's loudest bin, 0 down to -80."""
    batch_videos: int = Field(default=128, ge=1)
    """Videos in a batch, over all workers together (paper: 128). Shrinks to the number of videos
    where there are fewer."""
    clips_per_video: int = Field(default=32, ge=1)
    """Clips drawn from each video, with replacement (paper: 32)."""
    min_time: float = Field(default=10.0, gt=0)
    """Seconds up to which a drawn segment grows by its neighbours (paper: 10)."""
    deduplicate: bool = True
    """Drop a clip drawn twice from one video, which would be a negative of itself
    (official: false)."""
    random_windows: bool = False
    """Draw windows of `min_time` at random whole seconds from every video, not only from those
    without speech (official: false, there called random_audio_windows)."""
    audio_frames: int = Field(default=1000, ge=16)
    """Rows of spectrogram kept of a clip (paper: 1000, that is 10 s). Later ones are cut."""
    padding_decibel: float = -80.0
    """Value of padded spectrogram frames (official: 0, which is the loudest level)."""
    max_text_rows: int = Field(default=20, ge=1)
    """Text vectors kept of a clip, the first in time (paper: 20 words)."""
    shuffle_videos: int = Field(default=1000, ge=1)
    """Size of the shuffle buffer in decoded videos, over all workers together; bounds the memory
    of the readers."""
    lanes: int = Field(default=16, ge=1)
    """Streams that an epoch's shards are dealt into once the shuffle buffer cannot hold all videos;
    every batch draws from all of them. Each worker reads its own lanes, so up to so many workers
    read each shard once. Not the number of workers: batches do not depend on that."""
    cache_megabytes: float = Field(default=1024.0, ge=0)
    """Decoded videos that a worker keeps in memory from epoch to epoch, in megabytes. No effect on
    results."""


class ModelConfig(Settings):
    """Sizes and behaviour of the network."""

    embedding_dim: int = Field(default=6144, ge=2)
    """D, the size of the joint space (paper: 6144)."""
    audio_widths: tuple[int, ...] = Field(default=(128, 256, 512, 1024), min_length=1)
    """Channels of the audio network's residual stages; each halves the time
    (paper: 128, 256, 512, 1024)."""
    audio_blocks: int = Field(default=2, ge=1)
    """Residual blocks in a stage (paper: 2)."""
    decoder_dim: int = Field(default=1024, ge=1)
    """Hidden size of the reconstruction decoders (paper: 1024)."""
    mask_padding: bool = True
    """Leave padded frames and padded text rows out of every pooling and batch norm. Official:
    false, where training averages sound over its padding (evaluation does not) and the text
    pooling sees zero vectors."""
    similarity: Literal["normalised", "raw"] = "normalised"
    """normalised: embeddings have unit length and dot products are divided by a temperature.
    raw: plain dot products at temperature 1 (official)."""
    temperature: float = Field(default=0.05, gt=0)
    """Of the contrastive loss, where similarity is normalised (official: 1, with raw)."""
    learn_temperature: bool = False
    """Train the temperature from this start, held at 0.01 or above (official: false)."""


class LossConfig(Settings):
    """Weights and forms of the three losses."""

    margin: float = Field(default=0.001, ge=0)
    """Subtracted from the logit of the right answer in the contrastive and the clustering loss;
    constant (paper: 0.001)."""
    ignore_overlaps: bool = True
    """Clips of one video that overlap in time are no negatives of each other
    (official: false)."""
    clustering_weight: float = Field(default=1.0, ge=0)
    """Of the clustering loss (paper: 1). 0 switches clustering off."""
    clustering_on: Literal["each", "fused"] = "each"
    """each: one term a modality, their sum divided by three. fused: the term of the fused vector
    alone (official: each; its option --mean=1 is fused)."""
    clustering_temperature: float = Field(default=0.1, gt=0)
    """Of the clustering loss, where similarity is normalised (official: 1, with raw)."""
    reconstruction_weight: float = Field(default=50.0, ge=0)
    """Of the reconstruction loss (official: 50). 0 leaves the decoders out of the model."""
    detach_targets: bool = True
    """Stop the gradient into the reconstruction's targets, else the learned ones (sound, text)
    can shrink to lower the loss (official: false)."""


class ClusteringConfig(Settings):
    """On-line k-means on the fused vector."""

    clusters: int = Field(default=256, ge=2)
    """k (official: 256). Capped where the dataset is small; the log says so."""
    queue_rows: int = Field(default=40960, ge=0)
    """Fused vectors of earlier steps that are clustered with the current ones
    (official: 40,960)."""
    queue_clips_per_video: int = Field(default=16, ge=1)
    """Clips of each video, the first ones, that enter the queue (official: 16 of 32)."""
    partial_queue: bool = True
    """Cluster whatever the queue holds. Official: false, only the current batch until the queue
    is full."""
    refit_steps: int = Field(default=20, ge=1)
    """Steps from one k-means to the next; between them labels are the nearest of the old
    centroids (official: 20)."""
    max_iterations: int = Field(default=100, ge=1)
    """Of one k-means (official: 100)."""
    tolerance: float = Field(default=1e-4, ge=0)
    """Stop at this sum of squared centroid shifts or below (official: 1e-4)."""
    metric: Literal["spherical", "cosine_mean", "euclidean"] = "spherical"
    """spherical: cosine, centroids are means of unit vectors scaled to unit length.
    cosine_mean: cosine, centroids are means of the rows as they are (official)."""
    empty_clusters: Literal["reseed", "zero", "keep"] = "reseed"
    """reseed: moved to the rows farthest from their own centroids. zero: become the zero vector
    (official). keep: stay where they were."""
    keep_centroids: bool = True
    """Warm-start across epochs. Official: false, every epoch starts from random rows."""


class OptimiserConfig(Settings):
    """Optimiser and learning rate."""

    name: Literal["adam", "adamw"] = "adam"
    """adam is the paper's; adamw decouples the weight decay."""
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate (paper: 1e-4 at 4,096 clips a batch)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """(paper: 0)"""
    warmup_steps: int = Field(default=5000, ge=0)
    """Steps of linear warm-up, at most a tenth of all; then cosine to 0 (paper: 5,000 of
    273,000)."""
    max_gradient_norm: float | None = Field(default=None, gt=0)
    """Clip the gradient's norm to this (official: never)."""
    microbatch_clips: int | None = Field(default=None, ge=1)
    """About how many clips, over all workers together, go through the network at once; the losses
    still see the whole batch (GradCache, Gao et al. 2021: every clip is embedded twice). null: all
    of them. Everything but batch norm comes out as without it; batch norm takes its statistics from
    a micro-batch (paper: 4,096 clips at once)."""


class TrainConfig(Settings):
    """`train:` in a preset."""

    seed: int = Field(default=1, ge=0)
    """Of the weights, the shuffle, the clips and the k-means start (official: 1)."""
    epochs: int = Field(default=30, ge=1)
    """Passes over the training videos (paper: 30)."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the network computes in on CUDA, by autocast; float16 with a scaled loss. Weights,
    losses and k-means stay in float32, and so does everything on a CPU (official: float16)."""
    compile: bool = False
    """Compile the network with torch.compile: the first steps take minutes, later ones less."""
    checkpoint_steps: int = Field(default=1000, ge=1)
    """Steps from one checkpoint to the next."""
    checkpoint_epochs: int = Field(default=1, ge=1)
    """A checkpoint is also written at the end of every so many epochs, and of the last."""
    keep_last: int = Field(default=1, ge=1)
    """Checkpoints kept, the newest ones."""
    keep_best: bool = True
    """Keep also the checkpoint of the end of the epoch that had the lowest mean loss."""
    log_steps: int = Field(default=10, ge=1)
    """Steps from one row of metrics.jsonl and TensorBoard to the next."""
    wandb_project: str | None = None
    """Log to this project of Weights & Biases too; its package must be installed. null: never."""
    sampling: SamplingConfig = SamplingConfig()
    """Clips and batches."""
    model: ModelConfig = ModelConfig()
    """The network."""
    loss: LossConfig = LossConfig()
    """The losses."""
    clustering: ClusteringConfig = ClusteringConfig()
    """On-line k-means."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser and schedule."""
