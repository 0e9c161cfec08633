"""Audio encoders of transformers (AST, wav2vec2, HuBERT, WavLM, CLAP, Whisper's …) from a folder.

The folder's own feature extractor makes a model's input of each window by itself, so that no row
depends on its neighbours; the encoder runs on the windows of a batch together.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractors.config import AudioModelConfig
from extractors.errors import AbortError, UsageError
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.torch_model import as_rows, one_line, to_precision
from extractors.views import SoundView
from extractors.weights import weights_digest
from extractors.windows import Window, Windowing

# parameters that are used in training alone: some checkpoints lack them
UNUSED = ("masked_spec_embed",)
# the input of each kind of feature extractor
INPUTS = ("input_features", "input_values")


class AudioModel:
    """One row a window: the encoder's summary of it, or the mean over its time steps."""

    resources = Resources(gpus=0.25, memory_mb=1000)

    def __init__(self, config: AudioModelConfig) -> None:
        self._config = config
        self._encoder: nn.Module | None = None
        folder = Path(config.weights)
        dim, rate, longest = audio_facts(folder)
        size, step = round(config.window * rate), round(config.hop * rate)
        if size > longest:
            raise UsageError(
                f"extractors.*.window = {config.window}: {folder} takes {longest / rate:g} seconds "
                "at most"
            )
        self.batch_size = config.batch_size
        self.view = SoundView(rate)
        self.windowing = Windowing(size=size, step=step)
        start = size / 2 / rate
        self.spec = TrackSpec(dim, config.dtype, start=start, hop=step / rate, version=1)

    @property
    def weights_sha256(self) -> str:
        """Of all files of the folder."""
        return weights_digest("audio_model", self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the encoder. Raises AbortError where its weights are missing or do not fit."""
        from transformers import AutoFeatureExtractor as AutoFeatures

        folder = Path(self._config.weights)
        encoder = Encoder(_load(folder), self._config.pool, folder)
        self._features: Any = AutoFeatures.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
        self._device = device
        self._encoder = to_precision(encoder, device, self._config.precision)
        self._try_silence(folder)

    def _try_silence(self, folder: Path) -> None:
        """Whether the model gives the rows that its configuration promises: not all audio models
        are encoders, and not all encoders end in as many columns as `hidden_size`."""
        silence = Window(np.zeros(self.windowing.size, np.int16), self.windowing.step)
        try:
            (row,) = self.extract([silence])
        except (RuntimeError, ValueError, TypeError, AttributeError) as err:
            raise AbortError(f"{folder}: cannot encode sound: {one_line(err)}") from err
        if row.shape != (1, self.spec.dim):
            raise AbortError(f"{folder}: gives {row.shape[1]} columns, not {self.spec.dim}")

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, dim) a window."""
        assert self._encoder is not None, "extract before setup"
        sounds = [window.data.astype(np.float32) / np.float32(32768) for window in windows]
        inputs = torch.cat([self._input(sound) for sound in sounds]).to(self._device)
        dtype = next(self._encoder.parameters()).dtype
        with torch.inference_mode():
            rows = self._encoder(inputs.to(dtype)).float()
        return [row[None] for row in as_rows(rows, normalise=self._config.normalise)]

    def _input(self, sound: NDArray[np.float32]) -> Tensor:
        """(1, …): what the feature extractor makes of one window."""
        made = self._features(sound, sampling_rate=self.view.rate, return_tensors="pt")
        (name,) = (name for name in INPUTS if name in made)
        values: Tensor = made[name]
        return values

    def finish(self, blocks: Blocks) -> Blocks:
        """A window's row needs no other window."""
        return blocks

    def close(self) -> None:
        """Frees the encoder."""
        self._encoder = None


class Encoder(nn.Module):
    """(N, …) inputs to (N, dim) rows. Raises UsageError for a summary that there is not."""

    def __init__(self, model: Any, pool: str, folder: Path) -> None:
        super().__init__()
        self.is_clap = model.config.model_type == "clap"
        if self.is_clap:
            model.text_model = model.text_projection = nn.Identity()
            offers_summary = True
        else:
            model = model.get_encoder() if model.config.is_encoder_decoder else model
            offers_summary = model.config.model_type == "audio-spectrogram-transformer"
        refused = self.is_clap if pool == "mean" else pool == "cls" and not offers_summary
        if refused:
            kind, allowed = model.config.model_type, "cls" if self.is_clap else "mean"
            raise UsageError(f"extractors.*.pool = {pool}: {folder} is {kind}: use {allowed}")
        self.model = model
        self.takes_summary = offers_summary and pool != "mean"

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows, not normalised."""
        if self.is_clap:
            longer = torch.zeros(len(inputs), 1, dtype=torch.bool, device=inputs.device)
            found = self.model.get_audio_features(input_features=inputs, is_longer=longer)
            rows: Tensor = found.pooler_output
            return rows
        outputs = self.model(inputs)
        if self.takes_summary:
            rows = outputs.pooler_output
            return rows
        return torch.as_tensor(outputs.last_hidden_state.mean(1))


def audio_facts(folder: Path) -> tuple[int, int, int]:
    """Columns of a row, samples per second, the longest window in samples: from the folder's JSON
    files. Raises UsageError where it is no audio model's."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sounds = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        rate = int(sounds["sampling_rate"])
        if config["model_type"] == "clap":
            dim = config.get("projection_dim", 512)
        else:
            dim = config["d_model"] if "d_model" in config else config["hidden_size"]
        return int(dim), rate, _longest(sounds, rate)
    except (OSError, ValueError, KeyError, TypeError) as err:
        message = f"extractors.*.weights = {folder}: not an audio model's folder: {one_line(err)}"
        raise UsageError(message) from err


def _longest(sounds: dict[str, Any], rate: int) -> int:
    """What the feature extractor would cut off, or (CLAP's) cut at random."""
    if "nb_max_samples" in sounds:  # CLAP's
        return int(sounds["nb_max_samples"])
    if "n_samples" in sounds:  # Whisper's
        return int(sounds["n_samples"])
    if sounds.get("feature_extractor_type") == "ASTFeatureExtractor":  # rows of 10 ms
        return int(sounds["max_length"]) * rate // 100
    return 60 * rate


def _load(folder: Path) -> Any:
    """The model, from safetensors alone. Raises AbortError."""
    from transformers import AutoModel

    try:
        with _quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as err:
        raise AbortError(f"{folder}: cannot be read as an audio model: {one_line(err)}") from err
    missing = [name for name in report["missing_keys"] if not name.endswith(UNUSED)]
    if missing or report["mismatched_keys"]:
        names = ", ".join(sorted(missing)[:3]) or "other shapes"
        raise AbortError(f"{folder}: its weights do not fill {type(model).__name__}: {names}")
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its bar would break ours, and its report lists the classifier that is left out."""
    from transformers.utils import logging as messages

    messages.disable_progress_bar()  # type: ignore[no-untyped-call]
    before = messages.get_verbosity()
    messages.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        messages.set_verbosity(before)
