"""Settings of `run train`. Defaults mend the official code; each field names the official value.

The architecture and its numbers follow MCN (Chen et al., ICCV 2021, arXiv 2104.12671) and its
released code; `official` below means what that code does.
"""

from typing import Literal

from pydantic import Field

from pipeline.settings import Settings


class SamplingConfig(Settings):
    """Which clips are drawn and how they are cut from the tracks."""

    modalities: tuple[Literal["video", "audio", "text"], ...] = Field(
        default=("video", "audio", "text"), min_length=2
    )
    """What of a dataset is read, at least two: the model has no branch for the others
    (paper: all three; its ablation leaves out sound or picture)."""
    split: str | None = None
    """Train on the videos of this split alone. null: on all but those of the splits `test` and
    `validation` (or `valid`, `val`)."""
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
    """Text vectors kept of a clip, the first in time: words where the dataset holds word vectors,
    else sentences (paper: 20 words)."""
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

    mask_missing: bool = True
    """A modality that a clip lacks takes no part in any loss or in the fused mean. Official:
    false, where silence and clips without words are embedded as zeros and count like others."""
    contrastive: Literal["mms", "nce", "mil_nce"] = "mms"
    """mms: softmax over the batch with a margin (paper). nce: InfoNCE, the same without a margin.
    mil_nce: the right answers are the clip and its neighbours in the video (Miech et al. 2020)."""
    contrastive_weight: float = Field(default=1.0, ge=0)
    """Of the sum of the contrastive terms, one a pair of modalities (paper: 1). 0 leaves them
    out."""
    margin: float = Field(default=0.001, ge=0)
    """Subtracted from the logit of the right answer in mms and in the clustering loss
    (paper: 0.001)."""
    margin_growth: float = Field(default=1.0, ge=1)
    """The margin is multiplied by this every 1,000 steps (official: 1, a constant margin; the MMS
    of Ilharco et al. 2019 raises it during training)."""
    mil_clips: int = Field(default=5, ge=1)
    """Right answers of a clip under mil_nce: itself and those nearest in time among the clips of
    its video in the batch, so many in all (MIL-NCE: 5)."""
    ignore_overlaps: bool = True
    """Clips of one video that overlap in time are no negatives of each other
    (official: false)."""
    clustering_weight: float = Field(default=1.0, ge=0)
    """Of the clustering loss (paper: 1). 0 switches clustering off."""
    clustering_on: Literal["each", "fused"] = "each"
    """each: one term a modality, their sum divided by three. fused: the term of the fused vector
    alone, for k-means with joint prediction (official: each; its option --mean=1 is fused)."""
    clustering_temperature: float = Field(default=0.1, gt=0)
    """Of the clustering loss, where similarity is normalised, and of sinkhorn always (official:
    1 with raw similarity; 0.1 in the Sinkhorn variants)."""
    reconstruction_weight: float = Field(default=50.0, ge=0)
    """Of the reconstruction loss (official: 50). 0 leaves the decoders out of the model."""
    detach_targets: bool = True
    """Stop the gradient into the reconstruction's targets, else the learned ones (sound, text)
    can shrink to lower the loss (official: false)."""


class SinkhornConfig(Settings):
    """Heads, prototypes and codes of the Sinkhorn variants (MCN's ablation; SwAV, Caron et al.
    2020, for the codes, whose code MCN did not release)."""

    labels: Literal["soft", "hard"] = "soft"
    """What is predicted: the codes, or the prototype of the largest code (official: both)."""
    head_dim: int = Field(default=256, ge=1)
    """Size of the vectors that are compared with the prototypes (official: 256)."""
    shared_head: bool = False
    """One head and one set of prototypes for all modalities, else one each
    (official: false; its option joint_cluster is true)."""
    epsilon: float = Field(default=0.05, gt=0)
    """Entropy of the codes: larger is softer (SwAV: 0.05)."""
    iterations: int = Field(default=3, ge=1)
    """Sinkhorn-Knopp rounds (SwAV: 3)."""
    frozen_epochs: int = Field(default=1, ge=0)
    """Epochs in which the prototypes are not trained (official: 1)."""


class ClusteringConfig(Settings):
    """The clusters: on-line k-means, or prototypes with Sinkhorn codes."""

    method: Literal["kmeans", "sinkhorn"] = "kmeans"
    """kmeans: centroids of the embeddings (the method). sinkhorn: learned prototypes, to which a
    batch is assigned in equal parts (an ablation; `clusters` of them, no queue, no refits)."""
    prediction: Literal["joint", "swapped", "own", "all"] = "joint"
    """Which clusters a modality is pulled to. joint: those of the fused vector (the method).
    Otherwise every modality is clustered alone, and predicts the clusters of the other modalities
    (swapped), its own (own), or both (all; official: self_prediction)."""
    clusters: int = Field(default=256, ge=2)
    """k (official: 256, and 6,000 or 8,000 prototypes). k-means is capped where the dataset is
    small; the log says so."""
    queue_rows: int = Field(default=40960, ge=0)
    """Vectors of earlier steps that are clustered with the current ones (official: 40,960)."""
    queue_clips_per_video: int = Field(default=16, ge=1)
    """Clips of each video, the first ones, that enter the queue (official: 16 of 32)."""
    partial_queue: bool = True
    """Cluster whatever the queue holds. Official: false, only the current batch until the queue
    is full."""
    refit_steps: int = Field(default=20, ge=1)
    """Steps from one k-means to the next; between them labels are the nearest of the old
    centroids (official: 20)."""
    start: Literal["random", "k-means++"] = "k-means++"
    """Of the first k-means. random: rows drawn without replacement (official). k-means++: rows far
    apart (Arthur and Vassilvitskii 2007)."""
    minibatch_rows: int | None = Field(default=None, ge=1)
    """Rows drawn at random for every iteration (mini-batch k-means, Sculley 2010). null: all rows
    in every iteration (official)."""
    max_iterations: int = Field(default=100, ge=1)
    """Of one k-means (official: 100)."""
    tolerance: float = Field(default=1e-4, ge=0)
    """Stop at this sum of squared centroid shifts or below (official: 1e-4)."""
    metric: Literal["spherical", "cosine_mean", "euclidean"] = "spherical"
    """spherical: cosine, centroids are means of unit vectors scaled to unit length.
    cosine_mean: cosine, centroids are means of the rows as they are (official).
    euclidean: squared distance, centroids are means."""
    empty_clusters: Literal["reseed", "split", "zero", "keep"] = "reseed"
    """reseed: moved to the rows farthest from their own centroids. split: a copy of the largest
    cluster's centroid, both moved a little apart (as in FAISS). zero: become the zero vector
    (official). keep: stay where they were."""
    keep_centroids: bool = True
    """Warm-start across epochs. Official: false, every epoch starts from random rows."""
    sinkhorn: SinkhornConfig = SinkhornConfig()
    """Of method sinkhorn."""


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
    init: str | None = None
    """Weights to start from instead of fresh ones: a run, or a checkpoint of the released code
    (`e9.pth`). A part that it lacks (decoders, cluster heads) starts fresh. null: all fresh."""
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
    """Keep also the checkpoint of the end of the best epoch: of the highest recall on validation
    videos, or of the lowest mean loss where the dataset has none."""
    use_checkpoint: Literal["last", "best"] = "last"
    """The one that evaluation, index and search take; best needs `keep_best`."""
    validation_clips: int = Field(default=1000, ge=1)
    """Clips of the split `validation` (or `valid`, `val`) that retrieval is measured on with every
    checkpoint at the end of an epoch. They stay in memory."""
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
    """The clusters."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser and schedule."""
