"""A worker: the models of one process, loaded once, and what they make of videos.

file ─ probe ─ decode ─┬─ windows ─ batches across videos ─ extractors ─▶ tracks
                       └─ sound ─ captions, else speech recognition ─▶ segments ─▶ text
"""

import contextlib
import errno
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.build import build_extractor
from extractors.captions import find_captions, read_captions
from extractors.decode import Chunk, Decoded, decode, uses_nvdec
from extractors.errors import Reason, UsageError, VideoError
from extractors.extractor import Extractor
from extractors.probe import Probe, probe
from extractors.proxy import ProxyWriter, check_encoders
from extractors.speech import SpeechRecogniser
from extractors.text import SentenceEncoder
from extractors.tracks import Segment, Track
from extractors.views import SoundView, View
from extractors.windows import Window, WindowCutter
from pipeline import storage
from pipeline.config import ExtractConfig, fingerprints
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo

# What a network may raise on one video's input; anything else is a bug and ends the run.
EXTRACTOR_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError)


@dataclass
class InProgress:
    """A video between its first frame and its last row."""

    video: SourceVideo
    probed: Probe | None = None
    decoded: Decoded | None = None
    content_id: str | None = None
    rows: dict[str, list[NDArray[np.float32]]] = field(default_factory=lambda: defaultdict(list))
    num_waiting: int = 0
    """Windows of it that wait in a batch."""
    pieces_heard: int = 0
    """Windows of sound that speech recognition has had."""
    segments: list[Segment] = field(default_factory=list)
    proxy: bytes | None = None
    """Its small mp4; empty where it has no picture, None where none is wanted."""
    failure: VideoError | None = None
    closed: bool = False
    """No further window will come."""

    @property
    def complete(self) -> bool:
        """Whether all its rows are there."""
        return self.closed and self.num_waiting == 0


class Batcher:
    """Windows of many videos, in order, to batches of one extractor."""

    def __init__(self, name: str, extractor: Extractor) -> None:
        self.name = name
        self.extractor = extractor
        self._waiting: list[tuple[InProgress, Window]] = []

    def add(self, owner: InProgress, window: Window) -> None:
        """Queues a window; a full batch runs at once."""
        owner.num_waiting += 1
        self._waiting.append((owner, window))
        if len(self._waiting) >= self.extractor.batch_size:
            self.flush()

    def flush(self) -> None:
        """Runs what waits; a batch that fails again window by window, to find the culprit."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            found = self.extractor.extract([window for _, window in waiting])
        except EXTRACTOR_ERRORS:
            for owner, window in waiting:
                self._extract_alone(owner, window)
            return
        for (owner, _), rows in zip(waiting, found, strict=True):
            self._deliver(owner, rows)

    def _extract_alone(self, owner: InProgress, window: Window) -> None:
        try:
            with _blaming(owner.video, self.name):
                (rows,) = self.extractor.extract([window])
        except VideoError as err:
            owner.failure = err
            owner.num_waiting -= 1
        else:
            self._deliver(owner, rows)

    def _deliver(self, owner: InProgress, rows: NDArray[np.float32]) -> None:
        owner.rows[self.name].append(rows)
        owner.num_waiting -= 1


class Worker:
    """The loaded models of one process. Use it as a context manager."""

    def __init__(self, config: ExtractConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._batchers = [
            Batcher(name, build_extractor(settings)) for name, settings in config.wanted.items()
        ]
        speech = config.speech
        self._speech = SpeechRecogniser(speech) if speech and speech.recognise else None
        self._text = SentenceEncoder(config.text) if speech and config.text else None
        self._fingerprints = fingerprints(config)
        self.stage_seconds: dict[str, float] = defaultdict(float)

    def __enter__(self) -> "Worker":
        torch.set_num_threads(self._config.threads)
        self._nvdec = uses_nvdec(self._config.decode, gpu=self._device.type == "cuda")
        if self._config.proxy is not None:
            check_encoders()
        for model in self._models():
            model.setup(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        for model in self._models():
            model.close()

    def _models(self) -> list[Any]:
        optional = [model for model in (self._speech, self._text) if model is not None]
        return [batcher.extractor for batcher in self._batchers] + optional

    def extract(
        self, videos: Iterable[SourceVideo]
    ) -> Iterator[tuple[InProgress, VideoSample | None]]:
        """Each video in the order given, with its sample, or None where it failed.

        A video is given as soon as its last row is there: at most one batch of each extractor
        later than its last frame.
        """
        queue: list[InProgress] = []
        for video in videos:
            queue.append(self._read(video))
            while queue and queue[0].complete:
                yield self._result(queue.pop(0))
        with self._timed("extract"):
            for batcher in self._batchers:
                batcher.flush()
        for progress in queue:
            yield self._result(progress)

    def _read(self, video: SourceVideo) -> InProgress:
        """Decodes one video, feeding every extractor; what fails is kept in `failure`."""
        progress = InProgress(video)
        try:
            with _local_copy(video.uri, Reason.NOT_FOUND, "fetch") as path:
                with self._timed("probe"):
                    progress.probed = probe(path, self._config.decode)
                    progress.content_id = content_id(path)
                captions = self._captions(video, path)
                progress.segments = captions or []
                self._decode(progress, path, want_sound=captions is None)
        except VideoError as err:
            progress.failure = err
        progress.closed = True
        return progress

    def _captions(self, video: SourceVideo, path: str) -> list[Segment] | None:
        """Segments from a caption file, None where there is none."""
        if self._config.speech is None or not self._config.speech.captions:
            return None
        with self._timed("captions"):
            if video.captions is not None:
                with _local_copy(video.captions, Reason.BAD_CAPTIONS, "captions") as local:
                    return read_captions(local)
            beside = find_captions(path)
            return read_captions(beside) if beside else None

    def _decode(self, progress: InProgress, path: str, *, want_sound: bool) -> None:
        assert progress.probed is not None
        consumers = self._consumers(progress, want_sound=want_sound)
        views = [view for view, _, _ in consumers]
        started, consumed_before = time.monotonic(), self._consumed()
        with self._proxy_writer(progress.probed, path) as proxy:
            views += proxy.views if proxy else ()
            for chunk in decode(
                path, progress.probed, views, self._config.decode, cuda=self._nvdec
            ):
                if isinstance(chunk, Decoded):
                    progress.decoded = chunk
                    continue
                self._feed(chunk, consumers, progress)
                if proxy and chunk.view in proxy.views:
                    with self._timed("proxy"):
                        proxy.write(chunk)
            if proxy:
                with self._timed("proxy"):
                    progress.proxy = proxy.finish()
            elif self._config.proxy is not None:
                progress.proxy = b""
        for _, cutter, batcher in consumers:
            self._take(cutter.finish(), batcher, progress)
        consumed = self._consumed() - consumed_before
        self.stage_seconds["decode"] += time.monotonic() - started - consumed

    def _proxy_writer(
        self, probed: Probe, path: str
    ) -> contextlib.AbstractContextManager[ProxyWriter | None]:
        """What makes the proxy of a video; None where none is wanted or there is no picture."""
        config, decoding = self._config.proxy, self._config.decode
        if config is None or probed.picture is None:
            return contextlib.nullcontext()
        return ProxyWriter(path, config, decoding, probed.duration)

    def _consumed(self) -> float:
        """Seconds that those who take the decoder's chunks have spent so far."""
        return sum(self.stage_seconds[stage] for stage in ("extract", "speech", "proxy"))

    def _consumers(
        self, progress: InProgress, *, want_sound: bool
    ) -> list[tuple[View, WindowCutter, Batcher | None]]:
        """Who takes which view of this video; None is the speech recogniser."""
        consumers: list[tuple[View, WindowCutter, Batcher | None]] = [
            (batcher.extractor.view, WindowCutter(batcher.extractor.windowing), batcher)
            for batcher in self._batchers
        ]
        if want_sound and self._speech is not None:
            consumers.append((self._speech.view, WindowCutter(self._speech.windowing), None))
        return consumers

    def _feed(
        self,
        chunk: Chunk,
        consumers: list[tuple[View, WindowCutter, Batcher | None]],
        progress: InProgress,
    ) -> None:
        for view, cutter, batcher in consumers:
            if view == chunk.view:
                self._take(cutter.push(chunk.data), batcher, progress)

    def _take(
        self, windows: Iterable[Window], batcher: Batcher | None, progress: InProgress
    ) -> None:
        for window in windows:
            if batcher is not None:
                with self._timed("extract"):
                    batcher.add(progress, window)
            elif self._speech is not None:
                with self._timed("speech"), _blaming(progress.video, "speech"):
                    progress.segments += self._speech.recognise(window, progress.pieces_heard)
                progress.pieces_heard += 1

    def _result(self, progress: InProgress) -> tuple[InProgress, VideoSample | None]:
        sample = None
        if progress.failure is None:
            try:
                sample = self._sample(progress)
            except VideoError as err:
                progress.failure = err
        return progress, sample

    def _sample(self, progress: InProgress) -> VideoSample:
        """From all rows and segments of a video. Raises VideoError where one cannot be finished."""
        with self._timed("finish"):
            tracks = {
                batcher.name: self._track(batcher, progress)
                for batcher in self._batchers
                if progress.rows[batcher.name]
            }
        text = None
        if self._text is not None:
            with self._timed("text"), _blaming(progress.video, "text"):
                vectors = self._text.encode([segment.text for segment in progress.segments])
                text = vectors.astype(self._text.dtype)
        return VideoSample(
            key=progress.video.key,
            meta=self._meta(progress, tracks),
            tracks=tracks,
            segments=tuple(progress.segments),
            text=text,
            proxy=progress.proxy,
        )

    def _track(self, batcher: Batcher, progress: InProgress) -> Track:
        spec = batcher.extractor.spec
        with _blaming(progress.video, batcher.name):
            rows = batcher.extractor.finish(np.concatenate(progress.rows[batcher.name]))
        return Track(rows.astype(spec.dtype), start=spec.start, hop=spec.hop)

    def _meta(self, progress: InProgress, tracks: dict[str, Track]) -> dict[str, Any]:
        """meta.json: what the video is, what its tracks are and what made them."""
        assert progress.probed is not None
        assert progress.decoded is not None
        video, probed, decoded = progress.video, progress.probed, progress.decoded
        declared = probed.duration if decoded.damage is None else None
        return {
            "path": video.path,
            "content_id": progress.content_id,
            "label": video.label,
            "split": video.split,
            "duration": round(declared or decoded.duration, 3),
            "damage": decoded.damage or "",
            "decoded_on": decoded.device,
            "decode_fallback": decoded.fallback,
            "picture": probed.picture and {
                "codec": probed.picture.codec,
                "height": probed.picture.height,
                "width": probed.picture.width,
                "rate": probed.picture.rate,
            },
            "sound": probed.sound and {"codec": probed.sound.codec},
            "text_source": progress.segments[0].source if progress.segments else "",
            "tracks": {
                batcher.name: _track_facts(batcher.extractor, tracks.get(batcher.name), probed)
                for batcher in self._batchers
            },
            "fingerprints": self._fingerprints,
            **self._proxy_facts(progress),
        }  # fmt: skip

    def _proxy_facts(self, progress: InProgress) -> dict[str, Any]:
        """Where proxies are wanted, what meta.json says of this one."""
        config = self._config.proxy
        if config is None:
            return {}
        rate = config.rate if progress.proxy else 0.0
        return {"proxy": {"rate": rate, "absent": "" if progress.proxy else "no picture"}}

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.stage_seconds[stage] += time.monotonic() - started


def _track_facts(extractor: Extractor, track: Track | None, probed: Probe) -> dict[str, Any]:
    """What meta.json says of a track. The same keys for one that is absent (no rows, and why), so
    that readers which want every sample of a shard alike are served."""
    spec = extractor.spec
    if track is not None:
        absent = ""
    elif isinstance(extractor.view, SoundView):
        absent = "the sound is too short for a row" if probed.sound else "no sound track"
    else:
        absent = "the picture is too short for a row" if probed.picture else "no picture"
    return {
        "start": spec.start,
        "hop": spec.hop,
        "rows": 0 if track is None else len(track.rows),
        "dim": spec.dim,
        "dtype": spec.dtype,
        "absent": absent,
    }


@contextlib.contextmanager
def _blaming(video: SourceVideo, stage: str) -> Iterator[None]:
    """What a model raises on one video's input is that video's failure."""
    try:
        yield
    except EXTRACTOR_ERRORS as err:
        message = f"{video.uri}: {stage}: {type(err).__name__}: {err}"
        raise VideoError(Reason.EXTRACTOR_ERROR, stage, message) from err


@contextlib.contextmanager
def _local_copy(url: str, gone: Reason, stage: str) -> Iterator[str]:
    """A local path of a file. Raises VideoError where it cannot be fetched, but a full disk of
    ours is no fault of the video's."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(storage.local_copy(url))
        except FileNotFoundError as err:
            raise VideoError(gone, stage, f"{url}: no such file") from err
        except UsageError as err:  # a protocol that is unknown or has no driver here
            raise VideoError(Reason.UNREADABLE, stage, str(err)) from err
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise VideoError(Reason.UNREADABLE, stage, f"{url}: {err}") from err
        yield path


def content_id(path: str) -> str:
    """The sha256 of the file's bytes: what a video is, whatever it is called.

    Raises VideoError where they cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise VideoError(Reason.UNREADABLE, "probe", f"{path}: {err.strerror}") from err
