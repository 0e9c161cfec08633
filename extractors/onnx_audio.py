"""Sound taggers and encoders as one .onnx file, of YAMNet's layout (tensorflow/models, AudioSet).

    sound, 16 kHz, -1..1 ▸ windows of 0.975 s every 0.48 s ▸ graph ▸ 521 scores or 1024 embedded
    or, where the graph takes patches: 25 ms periodic Hann, 10 ms hop, FFT of 512, magnitude ▸ 64
    bands (HTK's mel scale, 125 Hz to 7.5 kHz) ▸ ln(x + 0.001) ▸ 96 rows ▸ graph

Nothing of the file runs but operators of onnxruntime; the sha256 of its content is part of the
track's fingerprint.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.config import OnnxAudioConfig
from extractors.errors import AbortError, UsageError
from extractors.extractor import Blocks, Resources, TrackSpec
from extractors.torch_model import as_rows, one_line
from extractors.views import SoundView
from extractors.weights import weights_digest
from extractors.windows import Window, Windowing

RATE = 16_000
FRAME, HOP, FFT = 400, 160, 512
PATCH = (96, 64)  # rows of 10 ms, mel bands
PATCH_SAMPLES = (PATCH[0] - 1) * HOP + FRAME
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

logger = logging.getLogger(__name__)


class OnnxAudio:
    """One row a window: an output of the graph, averaged where it gives several for one window."""

    resources = Resources(gpus=0.1, memory_mb=400)
    view = SoundView(RATE)

    def __init__(self, config: OnnxAudioConfig) -> None:
        self._config = config
        self._graph: Graph | None = None
        size, step = round(config.window * RATE), round(config.hop * RATE)
        if config.input == "yamnet_patch" and size != PATCH_SAMPLES:
            raise UsageError(
                f"extractors.*.window = {config.window}: a YAMNet patch takes "
                f"{PATCH_SAMPLES / RATE} seconds"
            )
        self.batch_size = config.batch_size
        self.windowing = Windowing(size=size, step=step)
        path = Path(config.weights)
        if not path.is_file():
            raise UsageError(f"extractors.*.weights = {path}: no such file")
        dim = _dim(path, path.stat().st_mtime_ns, config)
        start = size / 2 / RATE
        self.spec = TrackSpec(dim, config.dtype, start=start, hop=step / RATE, version=1)

    @property
    def weights_sha256(self) -> str:
        """Of the file's content."""
        return weights_digest("onnx", self._config.weights)

    def setup(self, device: torch.device) -> None:
        """Loads the graph, with as many threads as torch has. Raises AbortError."""
        self._graph = Graph(Path(self._config.weights), self._config.output, device)

    def extract(self, windows: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(1, dim) a window."""
        assert self._graph is not None, "extract before setup"
        inputs = _inputs(np.stack([window.data for window in windows]), self._config)
        rows = torch.from_numpy(self._graph.run(inputs))
        return [row[None] for row in as_rows(rows, normalise=self._config.normalise)]

    def finish(self, blocks: Blocks) -> Blocks:
        """A window's row needs no other window."""
        return blocks

    def close(self) -> None:
        """Frees the graph."""
        self._graph = None


class Graph:
    """An .onnx file as a function from (N, …) inputs to (N, dim) rows.

    Raises AbortError for a file that onnxruntime does not read and for one that asks for more than
    a tagger does, UsageError for an output that it does not have.
    """

    def __init__(self, path: Path, output: str | None, device: torch.device) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3  # its advice on graphs is not for our users
        try:
            self._session: Any = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=_providers(device)
            )  # bytes: weights in a second file would escape the fingerprint, so they are not found
        except _onnx_errors() as err:
            raise AbortError(f"{path}: not one whole .onnx file: {one_line(err)}") from err
        self._path = path
        given = self._session.get_inputs()
        if len(given) != 1 or given[0].type not in FLOATS:
            kinds = ", ".join(f"{each.name} {each.type}" for each in given)
            raise AbortError(f"{path}: takes {kinds}; a tagger takes one tensor of floats")
        (self._input,) = given
        names = [each.name for each in self._session.get_outputs()]
        self._output = names[0] if output is None else output
        if self._output not in names:
            allowed = ", ".join(names)
            raise UsageError(f"extractors.*.output = {output}: {path} has {allowed}")

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, …) to (N, dim); one by one where the graph has no batch axis, or one of length 1.

        Raises AbortError where the graph does not take inputs of this shape.
        """
        shape = self._input.shape
        has_batch = len(shape) >= inputs.ndim
        step = len(inputs) if has_batch and not isinstance(shape[0], int) else 1
        parts = [
            self._run(inputs[first : first + step], has_batch=has_batch)
            for first in range(0, len(inputs), step)
        ]
        return np.concatenate(parts)

    def _run(self, inputs: NDArray[np.float32], *, has_batch: bool) -> NDArray[np.float32]:
        fed = inputs if has_batch else inputs[0]
        shape = self._input.shape
        missing = [axis for axis, length in enumerate(shape) if axis and length == 1]
        for axis in missing[: max(0, len(shape) - fed.ndim)]:  # a channel, first or last
            fed = np.expand_dims(fed, axis)
        fed = fed.astype(FLOATS[self._input.type])
        try:
            (outputs,) = self._session.run([self._output], {self._input.name: fed})
        except _onnx_errors() as err:
            raise AbortError(
                f"{self._path}: its input {self._input.name} is {shape}, not {list(fed.shape)} "
                f"(extractors.*.input, window): {one_line(err)[:120]}"
            ) from err
        rows = np.asarray(outputs, np.float32)
        if rows.ndim == (1 if has_batch else 0):  # one number a window
            rows = rows[..., None]
        found: NDArray[np.float32] = rows.reshape(len(inputs), -1, rows.shape[-1]).mean(axis=1)
        return found


@functools.cache
def _dim(path: Path, changed: int, config: OnnxAudioConfig) -> int:
    """Columns of a row, by one run on silence; the time of change is there so that another file
    under the same name is run again."""
    graph = Graph(path, config.output, torch.device("cpu"))
    silence = np.zeros((1, round(config.window * RATE)), np.int16)
    return int(graph.run(_inputs(silence, config)).shape[1])


def _inputs(samples: NDArray[np.int16], config: OnnxAudioConfig) -> NDArray[np.float32]:
    """(N, samples) int16 to what the graph takes."""
    sound = samples.astype(np.float32) / np.float32(32768)
    return yamnet_patches(sound) if config.input == "yamnet_patch" else sound


def yamnet_patches(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 15600) in -1..1 to (N, 96, 64): YAMNet's features.py."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME, axis=1)[:, ::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    magnitude = np.abs(np.fft.rfft(frames * hann, FFT, axis=2))
    patches: NDArray[np.float32] = np.log(magnitude @ _mel_filters() + 0.001).astype(np.float32)
    return patches


@functools.cache
def _mel_filters() -> NDArray[np.float64]:
    """(257, 64): triangles on the mel axis, as TensorFlow's."""
    from transformers.audio_utils import mel_filter_bank  # a second of import

    filters: NDArray[np.float64] = mel_filter_bank(
        FFT // 2 + 1, PATCH[1], 125.0, 7500.0, RATE, mel_scale="htk",
        triangularize_in_mel_space=True,
    )  # fmt: skip
    return filters


def _providers(device: torch.device) -> list[Any]:
    """CUDA for a GPU worker where the installed onnxruntime has it, else the CPU, said aloud."""
    import onnxruntime

    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        logger.warning("onnx_audio runs on the CPU: this onnxruntime has no CUDA (onnxruntime-gpu)")
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]


def _onnx_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: each status has a class of its own, right below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf,
        state.NoSuchFile, state.NotImplemented, state.RuntimeException,
    )  # fmt: skip
