"""Speech recognition: faster-whisper over the sound of a video, to timed segments."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.extractor import Resources
from extractors.speech_config import SpeechConfig
from extractors.tracks import Segment, Word
from extractors.views import SoundView
from extractors.weights import locate, weights_digest
from extractors.windows import Window, Windowing

RATE = 16_000
PIECE_SECONDS = 600  # a longer sound is recognised in pieces of this length: bounds memory
VERSION = 2


@dataclass(frozen=True)
class Heard:
    """What was said in one piece of sound."""

    segments: list[Segment]
    """Times from the start of the video."""
    language: str
    """ISO code: as set, or as detected."""
    language_probability: float
    """1 where the language was set, or the model knows one only."""


class SpeechRecogniser:
    """Segments with times; silence and music give none (voice activity detection)."""

    view = SoundView(RATE)
    windowing = Windowing(size=PIECE_SECONDS * RATE, step=PIECE_SECONDS * RATE)
    resources = Resources(gpus=0.25, memory_mb=600)

    def __init__(self, config: SpeechConfig) -> None:
        self._config = config
        self._model: Any = None

    @property
    def weights_sha256(self) -> str:
        """Of the registry's files, or of the local folder."""
        name, local = registry_or_path(self._config.model)
        return weights_digest(name, local)

    def setup(self, device: torch.device) -> None:
        """Loads the recogniser. Raises AbortError where its weights are missing."""
        from faster_whisper import BatchedInferencePipeline, WhisperModel  # loads onnxruntime

        name, local = registry_or_path(self._config.model)
        path = locate(name, local, "speech.model")
        model = WhisperModel(
            str(path),
            device=device.type,
            compute_type=self._config.precision,
            cpu_threads=torch.get_num_threads(),
            local_files_only=True,
        )
        self._model = BatchedInferencePipeline(model) if self._config.batch_size else model

    def recognise(self, piece: Window, number: int) -> list[Segment]:
        """The segments of the piece with this number, times from the start of the video."""
        return self.hear(piece, number).segments

    def hear(self, piece: Window, number: int) -> Heard:
        """The segments of the piece with this number, and their language.

        Segments that look made up are dropped (`speech.max_no_speech`, `max_compression`,
        `min_log_probability`, `max_repeats`).
        """
        assert self._model is not None, "recognise before setup"
        samples = np.asarray(piece.data[: piece.num_own], np.float32) / np.float32(32768)
        found, info = self._model.transcribe(samples, **self._options())
        credible = [said for said in found if _is_credible(said, self._config)]
        offset = float(number * PIECE_SECONDS)
        segments = [segment for said in credible if (segment := _segment(said, samples, offset))]
        return Heard(
            without_repeats(segments, self._config.max_repeats),
            str(info.language),
            round(float(info.language_probability), 4),
        )

    def _options(self) -> dict[str, Any]:
        """Keywords of `transcribe`."""
        config = self._config
        options: dict[str, Any] = {
            "language": config.language,
            "beam_size": config.beam_size,
            "vad_filter": True,
            "word_timestamps": config.word_times,
            "temperature": 0.0,  # no sampling: the same sound gives the same text
            "condition_on_previous_text": False,  # one hallucination must not feed the next
            # Whisper's own guards sample anew and skip by half a minute; ours drop segments
            "no_speech_threshold": None,
            "compression_ratio_threshold": None,
            "log_prob_threshold": None,
        }
        if config.batch_size:
            options |= {"batch_size": config.batch_size, "without_timestamps": False}
        return options

    def close(self) -> None:
        """Frees the recogniser."""
        self._model = None


def without_repeats(segments: Iterable[Segment], most: int | None) -> list[Segment]:
    """At most so many segments of the same text (but for case) in a row; None keeps all."""
    runs = itertools.groupby(segments, key=lambda segment: segment.text.casefold())
    return [segment for _, run in runs for segment in itertools.islice(run, most)]


def registry_or_path(model: str) -> tuple[str, str | None]:
    """A registry name, or anything with a slash or a dot-slash as a local path."""
    return (model, model) if "/" in model else (model, None)


def _is_credible(said: Any, config: SpeechConfig) -> bool:
    """Whether one of faster-whisper's segments passes the bounds that are set."""
    if said.no_speech_prob > config.max_no_speech:
        return False
    if config.max_compression is not None and said.compression_ratio > config.max_compression:
        return False
    floor = config.min_log_probability
    return floor is None or said.avg_logprob >= floor


def _segment(said: Any, samples: NDArray[np.float32], offset: float) -> Segment | None:
    """One of faster-whisper's segments as ours; None where nothing is left of it."""
    start, end = _times(said, samples, offset)
    text = said.text.strip()
    if not text or end <= start:
        return None
    spoken = [(_times(word, samples, offset), word.word.strip()) for word in said.words or ()]
    words = tuple(Word(*times, word) for times, word in spoken if word and times[1] > times[0])
    return Segment(start, end, text, "asr", words)


def _times(said: Any, samples: NDArray[np.float32], offset: float) -> tuple[float, float]:
    """Start and end from the start of the video; Whisper may hear on past the end of the sound."""
    last = min(said.end, len(samples) / RATE)
    return round(float(said.start + offset), 3), round(float(last + offset), 3)
