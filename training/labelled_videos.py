"""Labelled videos of a dataset, read clip by clip as XDC's training reads them.

Shapes: N videos.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from extractors.errors import UsageError
from extractors.xdc_config import AudioEncoderConfig, HeardConfig, VideoEncoderConfig
from extractors.xdc_encoder_file import (
    load_audio_encoder,
    load_video_encoder,
    read_audio_config,
    read_video_config,
)
from extractors.xdc_networks import AudioEncoder, VideoEncoder
from extractors.xdc_run import encoder_file
from pipeline.scan import map_shards
from pipeline.shards import shard_numbers
from training.probe_config import FinetuneConfig
from training.protocols.split_tables import SplitTable
from training.xdc.config import XdcConfig, XdcSamplingConfig
from training.xdc.supervision import Modality
from training.xdc.video_set import VideoSet, check_dataset, shard_columns


@dataclass(frozen=True)
class EncoderFile:
    """A trained encoder, and how its clips are read."""

    path: Path
    modality: Modality
    heard: HeardConfig | None
    """Of an audio encoder: the spectrograms it was trained on."""
    reading: XdcConfig
    """Settings of the reader, with this encoder's clips."""


def open_encoder(
    model: str, modality: Modality, audio_track: str, config: FinetuneConfig
) -> EncoderFile:
    """The encoder of an XDC run's folder, or an encoder's file, published ones too.

    Raises UsageError where there is none, AbortError for one that cannot be read.
    """
    path = Path(model)
    if path.is_dir():
        path = Path(encoder_file(model, modality))
    sampling = XdcSamplingConfig(
        batch_clips=config.batch_clips, flip=config.flip, loader_workers=config.loader_workers
    )
    if modality == "video":
        clips = read_video_config(path)
        reading = XdcConfig(audio_track=audio_track, video=clips, sampling=sampling)
        return EncoderFile(path, modality, None, reading)
    heard = read_audio_config(path)
    reading = XdcConfig(
        audio_track=audio_track,
        video=_as_long_as(heard.encoder),
        audio=heard.encoder,
        sampling=sampling,
    )
    return EncoderFile(path, modality, heard, reading)


def make_encoder(file: EncoderFile, *, fresh: bool) -> nn.Module:
    """The network with its trained weights, or a fresh one (from torch's random state)."""
    if file.modality == "video":
        return VideoEncoder(file.reading.video) if fresh else load_video_encoder(file.path)
    return AudioEncoder(file.reading.audio) if fresh else load_audio_encoder(file.path)


def open_labelled_videos(dataset: str, table: SplitTable, file: EncoderFile) -> VideoSet:
    """The table's videos that the dataset holds, test ones too; `label_N` is the number of a label
    among the sorted ones. What the encoder does not take counts as not there, so it is not read.

    Raises UsageError for a dataset without XDC's log-mel, with another front end than the
    encoder's, with proxies that do not fit, or without any of the videos.
    """
    found = check_dataset(dataset, file.reading)
    if file.heard is not None and file.heard.mel != found.mel:
        raise UsageError(
            f"{dataset}: track {file.reading.audio_track} has another front end ({found.mel}) than "
            f"{file.path} was trained on ({file.heard.mel})"
        )
    names = sorted(set(table.label_V.tolist()))
    numbers = {
        key: names.index(label) for key, label in zip(table.keys, table.label_V, strict=True)
    }
    read = partial(
        shard_columns,
        dataset,
        file.reading.audio_track,
        lambda row: row["key"] in numbers,
        raw=found.raw,
    )
    rows = [row for part in map_shards(dataset, read, shard_numbers(dataset)) for row in part]
    if not rows:
        raise UsageError(
            f"{dataset}: holds none of the {len(table.keys)} labelled videos, as {table.keys[0]}; "
            "extract from the table of splits itself, so that the keys agree"
        )
    video = file.modality == "video"
    none = np.zeros(len(rows), np.bool_)
    return VideoSet(
        dataset=dataset,
        keys=tuple(row["key"] for row in rows),
        shard_N=_column(rows, "shard"),
        duration_N=np.array([row["duration"] for row in rows], np.float64),
        proxy_N2=_column(rows, "proxy"),
        mel_N2=_column(rows, "mel"),
        seen_N=np.array([row["seen"] for row in rows], np.bool_) if video else none,
        heard_N=none if video else np.array([row["heard"] for row in rows], np.bool_),
        held_out_N=none,
        label_N=np.array([numbers[row["key"]] for row in rows], np.int64),
        mel=found.mel,
        uris=tuple(row["uri"] for row in rows) if found.raw else (),
        decode=found.decode,
    )


def _column(rows: list[dict[str, Any]], name: str) -> NDArray[np.int64]:
    return np.array([row[name] for row in rows], np.int64)


def _as_long_as(audio: AudioEncoderConfig) -> VideoEncoderConfig:
    """Clips of frames, never read, as long as the sound's, which is cut around their middle."""
    frames = max(1, min(256, int(audio.seconds)))
    return VideoEncoderConfig(frames=frames, rate=frames / audio.seconds, short_side=16, size=16)
