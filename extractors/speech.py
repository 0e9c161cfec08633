"""Speech recognition: faster-whisper over the sound of a video, to timed segments."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.config import SpeechConfig
from extractors.extractor import Resources
from extractors.tracks import Segment
from extractors.views import SoundView
from extractors.weights import locate, weights_digest
from extractors.windows import Window, Windowing

RATE = 16_000
PIECE_SECONDS = 600  # a longer sound is recognised in pieces of this length: bounds memory
VERSION = 1


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
        from faster_whisper import WhisperModel  # loads onnxruntime: only where speech is wanted

        name, local = registry_or_path(self._config.model)
        path = locate(name, local, "speech.model")
        precision = self._config.precision
        self._model = WhisperModel(
            str(path),
            device=device.type,
            compute_type=precision,
            cpu_threads=torch.get_num_threads(),
            local_files_only=True,
        )

    def recognise(self, piece: Window, number: int) -> list[Segment]:
        """The segments of the piece with this number, times from the start of the video."""
        samples = np.asarray(piece.data[: piece.num_own], np.float32) / np.float32(32768)
        return list(self._recognise(samples, float(number * PIECE_SECONDS)))

    def _recognise(self, samples: NDArray[np.float32], offset: float) -> Iterator[Segment]:
        assert self._model is not None, "recognise before setup"
        found, _ = self._model.transcribe(
            samples,
            language=self._config.language,
            beam_size=self._config.beam_size,
            vad_filter=True,
            temperature=0.0,  # no sampling: the same sound gives the same text
            condition_on_previous_text=False,  # one hallucination must not feed the next
        )
        for piece in found:
            text = piece.text.strip()
            if text and piece.no_speech_prob <= self._config.max_no_speech:
                last = min(piece.end, len(samples) / RATE)  # Whisper may hear on past the end
                start, end = round(piece.start + offset, 3), round(last + offset, 3)
                if end > start:
                    yield Segment(start, end, text, "asr")

    def close(self) -> None:
        """Frees the recogniser."""
        self._model = None


def registry_or_path(model: str) -> tuple[str, str | None]:
    """A registry name, or anything with a slash or a dot-slash as a local path."""
    return (model, model) if "/" in model else (model, None)
