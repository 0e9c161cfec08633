"""A worker: the models of one process, loaded once, and what they make of videos.

file ─ probe ─ decode ─┬─ windows ─ batches across videos ─ extractors ─▶ tracks
                       └─ sound ─ captions, else speech recognition ─▶ segments ─▶ text
"""

import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from extractors.build import build_extractor
from extractors.caption_names import INFO_SUFFIX
from extractors.captions import Captions, locate_captions, read_located
from extractors.decode import Chunk, Decoded, decode, uses_nvdec
from extractors.errors import Reason, VideoError
from extractors.probe import Probe, probe
from extractors.proxy import ProxyWriter, check_encoders
from extractors.speech import SpeechRecogniser
from extractors.text import build_text_encoder
from extractors.tracks import Track
from extractors.views import View
from extractors.windows import Window, WindowCutter
from pipeline.batching import NO_TRANSCRIPT, Batcher, InProgress, blaming
from pipeline.config import ExtractConfig
from pipeline.fetching import fetched
from pipeline.metadata import describe
from pipeline.provenance import digest, joint_fingerprint, made_with, provenance
from pipeline.published import StoredVideo
from pipeline.samples import VideoSample
from pipeline.sources import SourceVideo

Find = Callable[[SourceVideo], StoredVideo | None]
"""What an earlier run has of a video; a failed one is not tried again."""


def nothing_stored(_video: SourceVideo) -> StoredVideo | None:
    """For videos that are seen for the first time."""
    return None


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
        self._text = build_text_encoder(config.text) if speech and config.text else None
        self.provenance = provenance(config)
        self.fingerprints = {name: digest(facts) for name, facts in self.provenance.items()}
        self.fingerprint = joint_fingerprint(self.provenance)
        self.stage_seconds: dict[str, float] = defaultdict(float)

    def __enter__(self) -> "Worker":
        torch.set_num_threads(self._config.threads)
        self._nvdec = uses_nvdec(self._config.decode, gpu=self._device.type == "cuda")
        self._made_with = made_with()
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
        self,
        videos: Iterable[SourceVideo],
        find: Find = nothing_stored,
        *,
        isolate: bool = False,
    ) -> Iterator[tuple[InProgress, VideoSample | None]]:
        """Each video in the order given, with its sample, or None where it failed.

        What `find` gives of a video and is still true is not made again. A video is given as soon
        as its last row is there: at most one batch of each extractor later than its last frame.
        With `isolate` no batch holds windows of two videos.
        """
        queue: list[InProgress] = []
        for batcher in self._batchers:  # of a job that was given up
            batcher.discard()
        try:
            for video in videos:
                queue.append(InProgress(video))
                self._read(queue[-1], find(video))
                if isolate:
                    self._flush()
                while queue and queue[0].complete:
                    yield self._result(queue.pop(0))
            self._flush()
            while queue:
                yield self._result(queue.pop(0))
        finally:
            for progress in queue:
                progress.free()

    def _flush(self) -> None:
        for batcher in self._batchers:
            with self._timed(batcher.name):
                batcher.flush()

    def _read(self, progress: InProgress, stored: StoredVideo | None) -> None:
        """Decodes one video, feeding every extractor; what fails is kept in `failure`."""
        video = progress.video
        try:
            if stored is not None and stored.failed:
                raise _failure_of(stored)
            if stored is not None and stored.is_of(video):
                wants_captions = "transcript" in self.fingerprints
                self._carry(progress, stored, stored.captions_id if wants_captions else "")
            if self._missing(progress) - {"text"}:
                self._open(progress, stored)
        except VideoError as err:
            progress.failure = err
        progress.closed = True

    def _missing(self, progress: InProgress) -> set[str]:
        """Names of what is to be made."""
        return self.fingerprints.keys() - progress.carried

    def _carry(self, progress: InProgress, stored: StoredVideo, captions_id: str) -> None:
        """Takes over what is still true of a stored video whose file is the same."""
        current = stored.current(self.fingerprints)
        if captions_id != stored.captions_id:
            current -= {"transcript", "text"}
        progress.carried = current
        progress.stored = stored if current else None
        progress.captions_id = captions_id
        kept = "transcript" in current
        progress.segments = stored.segments if kept else []
        progress.transcript = stored.meta["transcript"] if kept else dict(NO_TRANSCRIPT)
        if current:
            progress.content_id = stored.meta["content_id"]

    def _open(self, progress: InProgress, stored: StoredVideo | None) -> None:
        """Reads the file for what is missing. A file that only looks changed is known by its
        bytes."""
        video = progress.video
        progress.opened = True
        with fetched(video.uri) as path:
            with self._timed("probe"):
                progress.probed = probe(path, self._config.decode)
                if progress.content_id is None:
                    progress.content_id = content_id(path)
            with self._captions(progress, path) as captions:
                captions_id = captions.digest if captions else ""
                if stored and self._same_file(progress, stored):
                    self._carry(progress, stored, captions_id)
                progress.captions_id = captions_id
                if captions and "transcript" in self._missing(progress):
                    with self._timed("captions"):
                        self._read_captions(progress, captions)
            if self._missing(progress) - {"text"}:
                self._decode(progress, path, want_sound=not captions)

    @staticmethod
    def _same_file(progress: InProgress, stored: StoredVideo) -> bool:
        return bool(stored.meta["content_id"] == progress.content_id)

    @contextlib.contextmanager
    def _captions(self, progress: InProgress, path: str) -> Iterator[Captions | None]:
        """Where the video's captions are, None where there are none or none are wanted."""
        video, speech = progress.video, self._config.speech
        with contextlib.ExitStack() as stack:
            if speech is None or not speech.captions:
                yield None
                return
            given = None
            if video.captions is not None:
                _refuse_remote_table(video.captions)
                copy = fetched(video.captions, Reason.BAD_CAPTIONS, "captions")
                given = stack.enter_context(copy)
            with self._timed("captions"):
                ids = (PurePosixPath(video.path).stem, video.key)
                found = locate_captions(
                    path, speech, self._config.decode, ids=ids, given=given, probed=progress.probed
                )
            yield found

    def _read_captions(self, progress: InProgress, captions: Captions) -> None:
        progress.segments = read_located(captions, progress.probed, self._config.decode)
        progress.transcript = captions.facts

    def _decode(self, progress: InProgress, path: str, *, want_sound: bool) -> None:
        assert progress.probed is not None
        consumers = self._consumers(progress, want_sound=want_sound)
        wants_proxy = self._config.proxy is not None and "proxy" in self._missing(progress)
        if progress.carried and not consumers and not wants_proxy:
            return
        views = [view for view, _, _ in consumers]
        started, consumed_before = time.monotonic(), self._consumed()
        with self._proxy_writer(progress.probed, path, wanted=wants_proxy) as proxy:
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
            elif wants_proxy:
                progress.proxy = b""
        for _, cutter, batcher in consumers:
            self._take(cutter.finish(), batcher, progress)
        consumed = self._consumed() - consumed_before
        self.stage_seconds["decode"] += time.monotonic() - started - consumed

    def _proxy_writer(
        self, probed: Probe, path: str, *, wanted: bool
    ) -> contextlib.AbstractContextManager[ProxyWriter | None]:
        """What makes the proxy of a video; None where none is wanted or there is no picture."""
        config, decoding = self._config.proxy, self._config.decode
        if config is None or not wanted or probed.picture is None:
            return contextlib.nullcontext()
        return ProxyWriter(path, config, decoding, probed.duration)

    def _consumed(self) -> float:
        """Seconds that those who take the decoder's chunks have spent so far."""
        stages = [batcher.name for batcher in self._batchers]
        return sum(self.stage_seconds[stage] for stage in (*stages, "speech", "proxy"))

    def _consumers(
        self, progress: InProgress, *, want_sound: bool
    ) -> list[tuple[View, WindowCutter, Batcher | None]]:
        """Who takes which view of this video; None is the speech recogniser."""
        missing = self._missing(progress)
        consumers: list[tuple[View, WindowCutter, Batcher | None]] = [
            (batcher.extractor.view, WindowCutter(batcher.extractor.windowing), batcher)
            for batcher in self._batchers
            if batcher.name in missing
        ]
        if self._speech is not None and want_sound and "transcript" in missing:
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
                with self._timed(batcher.name):
                    batcher.add(progress, window)
            elif self._speech is not None:
                with self._timed("speech"), blaming(progress.video, "speech"):
                    heard = self._speech.hear(window, progress.pieces_heard)
                progress.segments += heard.segments
                progress.hear(heard.language, heard.language_probability)

    def _result(self, progress: InProgress) -> tuple[InProgress, VideoSample | None]:
        sample = None
        try:
            if progress.failure is None:
                sample = self._sample(progress)
        except VideoError as err:
            progress.failure = err
        finally:
            progress.free()
        return progress, sample

    def _sample(self, progress: InProgress) -> VideoSample:
        """From all rows and segments of a video. Raises VideoError where one cannot be finished."""
        with self._timed("finish"):
            tracks = {
                batcher.name: self._track(batcher, progress)
                for batcher in self._batchers
                if progress.rows[batcher.name]
            }
        text = offsets = None
        if self._text is not None and "text" not in progress.carried:
            with self._timed("text"), blaming(progress.video, "text"):
                found = self._text.encode_rows([segment.text for segment in progress.segments])
            text = found.rows.astype(self._text.dtype)
            offsets = found.offsets if self._config.has_word_vectors else None
        return VideoSample(
            key=progress.video.key,
            meta=describe(progress, self._batchers, tracks, self._config.proxy, self._made()),
            tracks=tracks,
            segments=tuple(progress.segments),
            text=text,
            text_offsets=offsets,
            proxy=progress.proxy,
            carried=progress.stored.members_of(progress.carried) if progress.stored else {},
        )

    def _made(self) -> dict[str, dict[str, Any]]:
        """The provenance that meta.json tells of what this worker makes."""
        return {
            name: facts | self._made_with | {"fingerprint": self.fingerprints[name]}
            for name, facts in self.provenance.items()
        }

    def _track(self, batcher: Batcher, progress: InProgress) -> Track:
        spec, made = batcher.extractor.spec, progress.rows[batcher.name]
        rows = np.empty((len(made), spec.dim), spec.dtype)
        first = 0
        with blaming(progress.video, batcher.name):
            for block in batcher.extractor.finish(made):
                rows[first : first + len(block)] = block
                first += len(block)
            if first != len(rows):
                raise ValueError(f"of {len(rows)} rows, {first} were finished")
        return Track(rows, start=spec.start, hop=spec.hop)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.stage_seconds[stage] += time.monotonic() - started


def _failure_of(stored: StoredVideo) -> VideoError:
    row = stored.row
    return VideoError(Reason(row["reason"]), row["stage"], row["error_message"])


def _refuse_remote_table(captions: str) -> None:
    """A table of many videos' captions would be fetched once a video."""
    if "://" in captions and captions.endswith(".json") and not captions.endswith(INFO_SUFFIX):
        message = (
            f"{captions}: a remote table of captions; copy it to every worker's disk and give its "
            "path as extract.speech.caption_table"
        )
        raise VideoError(Reason.BAD_CAPTIONS, "captions", message)


def content_id(path: str) -> str:
    """The sha256 of the file's bytes: what a video is, whatever it is called.

    Raises VideoError where they cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise VideoError(Reason.UNREADABLE, "probe", f"{path}: {err.strerror}") from err
