"""What extracting costs on paper: work and bytes a second of video, from the settings alone.

work     seconds of one CPU core a second of video, measured once for the presets' networks (below),
         or as a dataset's own shards took (pipeline.changes.estimate)
bytes    of tracks from their width, hop and type; of transcripts from how many segments there are
"""

import math
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from extractors.build import build_extractor
from extractors.config import ExtractorConfig
from extractors.costs import cost_of
from extractors.decode_config import ProxyConfig
from extractors.extractor import Extractor
from extractors.proxy import frame_view
from extractors.views import FrameView
from pipeline import storage
from pipeline.changes import StageCost
from pipeline.config import ExtractConfig
from pipeline.shards import read_rows, shard_url

NPY_HEADER = 128
"""Bytes before the rows of an array."""
TAR_BLOCK = 512
"""A member of a tar has a header of this size, and is filled up to a multiple of it."""
TAR_RECORD = 10_240
"""A tar ends with two empty blocks and is filled up to a multiple of this."""

STATED = "stated: one CPU core, 720p"
"""Where the rates below are from: docs/scale.md says how they were measured."""
DECODE_SECONDS, FRAME_SECONDS = 0.102, 0.0023
"""CPU seconds a second of video (H.264, 1280 x 720, 30 frames/s, 2.1 Mbit/s), and more for each
frame that is scaled and handed over: a line through the two presets' figures."""
SPEECH_SECONDS = 0.061
"""The same of speech recognition (tiny.en, int8), where somebody speaks all the time."""
PROXY_SECONDS = 0.044
"""The same of a proxy at its default settings."""
TEXT_SECONDS = 0.0068
"""CPU seconds a segment (all-MiniLM-L6-v2)."""
ROW_SECONDS: dict[tuple[object, ...], float] = {
    ("image", "efficientnet_lite0", 224, "crop", None, "float32", None): 0.0481,
    ("image", "resnet152", 224, "whole", None, "float32", None): 0.625,
    ("motion", None, None, None, 16, None, None): 0.203,
    ("action", "r2plus1d_18", 112, None, 16, "float32", None): 1.104,
    ("log_mel", None, None, None, None, None, "mcn"): 6.7e-6,
}
"""CPU seconds a row, by what decides it (`_work`); `whole` is of a picture of 16:9."""

SEGMENTS_A_SECOND = 13 / 60
"""Of the narration on which this was measured, cut by the recogniser."""
SEGMENT_BYTES = {"transcript": 110.0, "text": 384 * 2.0}
"""A segment: its line of transcript.json, and its row of text.npy (384 columns of float16)."""
PROXY_BYTES = 15_000.0
"""A second of video, at the default settings, of a noisy test picture."""
META_BYTES = 3200
"""Of meta.json."""


@dataclass(frozen=True)
class Corpus:
    """Videos that are to be extracted."""

    videos: int
    hours: float
    """Of all of them together."""
    segments: float | None = None
    """Of their transcripts together; None: as many a second as in `SEGMENTS_A_SECOND`."""

    @property
    def seconds(self) -> float:
        """Mean length of a video."""
        return 3600 * self.hours / self.videos if self.videos else 0.0

    @property
    def all_segments(self) -> float:
        """Of their transcripts together, known or assumed."""
        assumed = 3600 * self.hours * SEGMENTS_A_SECOND
        return assumed if self.segments is None else self.segments


@dataclass(frozen=True)
class Size:
    """Bytes of one kind of member in all shards together."""

    member: str
    bytes: float
    source: str
    """`exact` (for videos of the mean length), `measured` in a shard, `stated`, or `about`."""


def track_rows(extractor: Extractor, seconds: float) -> int:
    """Rows of the track of a video of that length: a row for each window that begins in it."""
    view, spec = extractor.view, extractor.spec
    items = math.floor(seconds * view.rate + 0.5)
    if isinstance(view, FrameView):
        return math.ceil(items / (view.rate * spec.hop) - 1e-6)
    return math.ceil(items / round(view.rate * spec.hop))


def track_bytes(extractor: Extractor, seconds: float) -> int:
    """Bytes of the .npy of a video of that length."""
    spec = extractor.spec
    return NPY_HEADER + track_rows(extractor, seconds) * spec.dim * np.dtype(spec.dtype).itemsize


def tar_bytes(members: Sequence[int]) -> int:
    """Bytes of a tar with members of these sizes."""
    blocks = sum(TAR_BLOCK * (1 + math.ceil(size / TAR_BLOCK)) for size in members)
    return math.ceil((blocks + 2 * TAR_BLOCK) / TAR_RECORD) * TAR_RECORD


def shard_sizes(
    config: ExtractConfig, corpus: Corpus, measured: Mapping[str, float] | None = None
) -> list[Size]:
    """Bytes of each member over all videos, the tars' own bytes last. `measured` holds bytes a
    second of video of the members that no setting decides, as `measured_members` gives them."""
    sizes = [
        Size(name, corpus.videos * track_bytes(build_extractor(settings), corpus.seconds), "exact")
        for name, settings in config.wanted.items()
    ]
    known = dict(measured or {})
    seconds = 3600 * corpus.hours
    for member, stated in _stated_bytes(config, corpus).items():
        found = known.get(member)
        size = Size(member, stated, "stated") if found is None else None
        sizes.append(size or Size(member, seconds * (found or 0.0), "measured"))
    # a header, and half a block of filling on average
    around = corpus.videos * len(sizes) * TAR_BLOCK * 1.5
    return [*sizes, Size("tar", around, "about")]


def _stated_bytes(config: ExtractConfig, corpus: Corpus) -> dict[str, float]:
    """Of the members that are wanted."""
    found = {"meta": float(corpus.videos * META_BYTES), "transcript": 0.0}
    if config.speech is not None:
        found["transcript"] = corpus.all_segments * SEGMENT_BYTES["transcript"]
        if config.text is not None:
            found["text"] = corpus.all_segments * SEGMENT_BYTES["text"]
    if config.proxy is not None:
        found["proxy"] = 3600 * corpus.hours * PROXY_BYTES
    return found


def measured_members(dataset: str, number: int) -> tuple[dict[str, float], float]:
    """Of a published shard: bytes a second of video by member, without its extension, and segments
    a second of video. Only the tar's headers and the parquet are read. Empty and 0 where the
    shard has no video. Raises FileNotFoundError, DamagedError."""
    rows = [row for row in read_rows(dataset, number) if row["status"] == "success"]
    seconds = sum(row["duration"] for row in rows)
    if not seconds:
        return {}, 0.0
    found: dict[str, float] = {}
    with (
        storage.open_binary(shard_url(dataset, number, ".tar")) as stream,
        tarfile.open(fileobj=stream, mode="r:") as tar,
    ):
        for member in tar:
            name = member.name.partition(".")[2].rpartition(".")[0].removesuffix("_offsets")
            found[name] = found.get(name, 0.0) + member.size / seconds
    return found, sum(row["num_segments"] for row in rows) / seconds


def stage_names(config: ExtractConfig) -> list[str]:
    """The stages of a worker that take time, in the order of a run."""
    spoken = ["speech"] if config.speech is not None and config.speech.recognise else []
    text = ["text"] if config.speech is not None and config.text is not None else []
    proxy = ["proxy"] if config.proxy is not None else []
    return ["decode", *config.wanted, *spoken, *text, *proxy]


def stated_rate(stage: str, config: ExtractConfig, corpus: Corpus) -> float | None:
    """CPU seconds of one core a second of video; None for a network that was not measured."""
    if stage in config.wanted:
        settings = config.wanted[stage]
        seconds = ROW_SECONDS.get(_work(settings))
        return None if seconds is None else seconds / build_extractor(settings).spec.hop
    if stage == "decode":
        return DECODE_SECONDS + FRAME_SECONDS * _frames_a_second(config)
    if stage == "speech":
        return SPEECH_SECONDS if config.speech and config.speech.model == "tiny.en" else None
    if stage == "text":
        spoken = TEXT_SECONDS * corpus.all_segments / max(1.0, 3600 * corpus.hours)
        return None if config.has_word_vectors else spoken
    return PROXY_SECONDS if config.proxy == ProxyConfig() else None


def _frames_a_second(config: ExtractConfig) -> float:
    """That the decoder hands over; a view that two extractors share is decoded once."""
    views = {build_extractor(settings).view for settings in config.wanted.values()}
    if config.proxy is not None:
        views.add(frame_view(config.proxy))
    return sum(view.rate for view in views if isinstance(view, FrameView))


def _work(settings: ExtractorConfig) -> tuple[object, ...]:
    """The settings that decide what a row costs."""
    fields = ("kind", "model", "size", "fit", "window", "precision", "front_end")
    return tuple(getattr(settings, name, None) for name in fields)


def with_stated_rates(
    costs: Sequence[StageCost], config: ExtractConfig, corpus: Corpus
) -> list[StageCost]:
    """The costs, those without a rate at the stated one where there is one."""
    filled = []
    for cost in costs:
        rate = stated_rate(cost.stage, config, corpus) if cost.rate is None else None
        filled.append(cost if rate is None else replace(cost, rate=rate, rate_from=STATED))
    return filled


def gflop_a_second(config: ExtractConfig) -> dict[str, float | None]:
    """10^9 operations a second of video of each track's network; None where it is not counted."""
    found: dict[str, float | None] = {}
    for name, settings in config.wanted.items():
        cost = cost_of(settings)
        found[name] = None if cost is None else cost.gflop / build_extractor(settings).spec.hop
    return found
