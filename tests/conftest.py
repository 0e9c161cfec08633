"""What every test may use: the `gpu` marker, and real media that ffmpeg makes in seconds."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.ffmpeg import ffmpeg_binary
from tests.index.real_corpus import RealCorpus, make_corpus

BARS = 16
FRAME_RATE = 25  # 40 ms a frame: exact in the time base of every container used here


def pytest_configure() -> None:
    """One thread: the sums of a matrix product must not depend on the machine."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's commands first: they take minutes in one go, and would else run alone at the
    end while the other process is idle."""
    items.sort(key=lambda item: "test_docs.py" not in item.nodeid)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A GPU test skips on a laptop; on the machine that exists to run it, a skip is a failure."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail("REQUIRE_GPU=1, but there is no CUDA device")
    pytest.skip("needs a CUDA device")


@dataclass(frozen=True)
class Media:
    """Makes videos with the ffmpeg that the package itself uses."""

    folder: Path

    def path(self, name: str) -> Path:
        """Where a file of this name is kept."""
        return self.folder / name

    def run(self, *arguments: object, stdin: bytes | None = None) -> None:
        """One call of ffmpeg."""
        command = [ffmpeg_binary(), "-y", "-v", "error", *map(str, arguments)]
        result = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
        assert result.returncode == 0, result.stderr.decode(errors="replace")

    def video(
        self,
        name: str,
        options: Sequence[object] = (),
        *,
        frames: NDArray[np.uint8] | None = None,
        inputs: Sequence[object] = (),
        before: Sequence[object] = (),
    ) -> str:
        """Encodes frames (by default four seconds of barcodes) at FRAME_RATE to a file.

        `inputs` are further inputs, `before` stands before the frames' own. Made once a name.
        """
        target = self.path(name)
        if target.exists():
            return str(target)
        if frames is None:
            frames = self.barcodes(range(4 * FRAME_RATE))
        height, width = frames.shape[1:3]
        self.run(
            *before, "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
            "-framerate", FRAME_RATE, "-i", "pipe:0", *inputs, *options, target,
            stdin=frames.tobytes(),
        )  # fmt: skip
        return str(target)

    def wav(self, name: str, samples: NDArray[np.float64], rate: int = 16_000) -> str:
        """Samples in -1..1 as a 16-bit mono wav."""
        target = self.path(name)
        content = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        self.run("-f", "s16le", "-ar", rate, "-ac", 1, "-i", "pipe:0", target, stdin=content)
        return str(target)

    @staticmethod
    def barcodes(numbers: Sequence[int]) -> NDArray[np.uint8]:
        """(N, 64, 256, 3): the 16-bit number as white (1) and black bars, high bit left."""
        bits = np.array([[number >> (BARS - 1 - k) & 1 for k in range(BARS)] for number in numbers])
        bars = np.repeat(bits.astype(np.uint8) * 255, 256 // BARS, axis=1)
        return np.ascontiguousarray(
            np.broadcast_to(bars[:, None, :, None], (len(bits), 64, 256, 3))
        )

    @staticmethod
    def read_barcodes(frames: NDArray[np.uint8]) -> list[int]:
        """The numbers in frames of any size; fails where a bar is neither black nor white."""
        width = frames.shape[2]
        centres = [int((k + 0.5) * width / BARS) for k in range(BARS)]
        levels = frames[:, frames.shape[1] // 4 : -(frames.shape[1] // 4), centres].mean(
            axis=(1, 3)
        )
        assert np.all(np.abs(levels - 127.5) > 60), "not a barcode"
        return [int("".join("1" if level > 127 else "0" for level in row), 2) for row in levels]

    @staticmethod
    def clicks(seconds: float, times: Sequence[float], rate: int = 16_000) -> NDArray[np.float64]:
        """Silence with 5 ms bursts of 2 kHz that start at the given times."""
        samples = np.zeros(round(seconds * rate))
        burst = 0.9 * np.sin(2 * np.pi * 2000 * np.arange(rate // 200) / rate)
        for time in times:
            samples[round(time * rate) :][: len(burst)] = burst
        return samples


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """The factory; what it makes lives as long as the session."""
    return Media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealCorpus:
    """Six small videos, extracted, trained on and indexed; tests leave it as it is."""
    return make_corpus(tmp_path_factory.mktemp("real"))
