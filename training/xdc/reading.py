"""Reads clips: frames from proxies or from the videos' own files by ffmpeg, sound from stored
spectrograms.

In reading processes, through torch's DataLoader, which keeps the order of the plan.
Shapes: B clips, T frames, H x W pixels, M mel bands, R rows of spectrogram.
"""

import io
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from extractors.errors import AbortError, PipelineError, VideoError
from extractors.proxy_reader import ProxyReader
from extractors.xdc_config import mel_rows, xdc_view
from pipeline import storage
from pipeline.shards import shard_url
from training.xdc.clips import ClipRef, clip_start, sound_start
from training.xdc.config import XdcConfig
from training.xdc.proxy_frames import FrameDecoder, ProxyTable, read_table
from training.xdc.raw_files import RawFiles
from training.xdc.recent import recent
from training.xdc.video_set import VideoSet

logger = logging.getLogger(__name__)

OPEN_SHARDS = 32
"""Tars that a reading process keeps open."""

NPY_HEADER = 128
"""Bytes of the header that numpy writes for two axes."""

NAMED = 10
"""Videos whose file could not be read that are named; the others are counted."""


class Unread(NamedTuple):
    """A clip of frames that a video's own file did not give."""

    place: int
    """In the batch."""
    video: int
    """Its number in the VideoSet."""
    reason: str


class ClipBatch(NamedTuple):
    """Clips as they are read; what a clip lacks is zero."""

    frames_BTHWC: Tensor
    """uint8 RGB."""
    mel_BMR: Tensor
    """float16; rows beyond the sound are 0, which is the log-mel of digital silence."""
    failure: str = ""
    """Why the clips could not be read."""
    unread: Sequence[Unread] = ()
    """Clips whose frames are missing."""

    @property
    def unread_places(self) -> list[int]:
        """Their places in the batch."""
        return [clip.place for clip in self.unread]


class ClipReader(Dataset[ClipBatch]):
    """Reads clips. Opens nothing before the first one, so that it can be sent to a process."""

    def __init__(self, videos: VideoSet, config: XdcConfig) -> None:
        self._videos = videos
        self._config = config
        self._rows = mel_rows(config.audio.seconds, videos.mel.hop)
        self._tars: OrderedDict[int, IO[bytes]] = OrderedDict()
        self._tables: OrderedDict[int, ProxyTable] = OrderedDict()
        self._opened: OrderedDict[int, ProxyReader] = OrderedDict()
        self._decoder = FrameDecoder()
        self._files = RawFiles(xdc_view(config.video), videos.decode)

    def __getitems__(self, clips: list[ClipRef]) -> ClipBatch:
        """The clips in their order. What goes wrong is told in `failure`, or for a video's own file
        in `unread`: an exception that comes out of a process loses its kind."""
        size, count = self._config.video.size, len(clips)
        frames = np.zeros((count, self._config.video.frames, size, size, 3), np.uint8)
        mel = np.zeros((count, self._videos.mel.bands, self._rows), np.float16)
        unread = []
        for i, clip in enumerate(clips):
            try:
                if self._videos.heard_N[clip.video]:
                    rows = self.spectrogram(clip)
                    mel[i, :, : len(rows)] = rows.T
                if self._videos.seen_N[clip.video]:
                    frames[i] = self.frames(clip)
            except (PipelineError, OSError, ValueError) as err:
                if not (self._videos.uris and isinstance(err, VideoError)):
                    return _failed(self._about(clip, err))
                unread.append(Unread(i, clip.video, " ".join(str(err).split())))
        return ClipBatch(torch.from_numpy(frames), torch.from_numpy(mel), "", unread)

    def frames(self, clip: ClipRef) -> NDArray[np.uint8]:
        """(T, size, size, 3). Raises VideoError for a damaged proxy or a file that gives none."""
        wanted, start = self._config.video, self._start(clip)
        if self._videos.uris:
            found = self._files.read(self._videos.uris[clip.video], start, wanted.frames)
        else:
            times = [start + (i + 0.5) / wanted.rate for i in range(wanted.frames)]
            found = self._proxy_frames(clip.video, times)
        return cut_square(found, clip, wanted.short_side, wanted.size)

    def spectrogram(self, clip: ClipRef) -> NDArray[np.float16]:
        """(R or fewer, M): the rows of the sound around the clip's middle."""
        duration = float(self._videos.duration_N[clip.video])
        picture, sound = self._config.video.seconds, self._config.audio.seconds
        begins = sound_start(self._start(clip), picture, duration, sound)
        file = self._tar(int(self._videos.shard_N[clip.video]))
        offset = int(self._videos.mel_N2[clip.video, 0])
        return read_npy_rows(file, offset, round(begins / self._videos.mel.hop), self._rows)

    def _start(self, clip: ClipRef) -> float:
        duration = float(self._videos.duration_N[clip.video])
        return clip_start(clip.time, duration, self._config.video.seconds)

    def _proxy_frames(self, video: int, times: Sequence[float]) -> NDArray[np.uint8]:
        offset, size = map(int, self._videos.proxy_N2[video])
        file = self._tar(int(self._videos.shard_N[video]))
        sampling = self._config.sampling
        kept = sampling.open_proxies
        if sampling.proxy_reader == "decord":

            def opened() -> ProxyReader:
                file.seek(offset)
                return ProxyReader(file.read(size))

            return recent(self._opened, video, opened, kept)[0].read(times)
        table, _ = recent(self._tables, video, lambda: read_table(file, offset, size), kept)
        return self._decoder.read(file, offset, table, times)

    def _tar(self, shard: int) -> IO[bytes]:
        url = shard_url(self._videos.dataset, shard, ".tar")
        found, left = recent(self._tars, shard, lambda: storage.open_binary(url), OPEN_SHARDS)
        if left is not None:
            left.close()
        return found

    def _about(self, clip: ClipRef, err: Exception) -> str:
        shard, key = int(self._videos.shard_N[clip.video]), self._videos.keys[clip.video]
        reason = " ".join(str(err).split())
        return (
            f"{self._videos.dataset}: shard {shard:06d}, video {key}: {reason}; "
            "`pipeline verify` says what is damaged"
        )


def _failed(reason: str) -> ClipBatch:
    return ClipBatch(torch.zeros(0, dtype=torch.uint8), torch.zeros(0), reason)


def cut_square(
    frames: NDArray[np.uint8], clip: ClipRef, short_side: int, size: int
) -> NDArray[np.uint8]:
    """(T, size, size, 3) out of (T, H, W, 3), as if the short side had been scaled first."""
    height, width = frames.shape[1:3]
    side = min(height, width, round(size * min(height, width) / short_side))
    top, left = int(clip.top * (height - side + 1)), int(clip.left * (width - side + 1))
    top, left = min(top, height - side), min(left, width - side)
    square = frames[:, top : top + side, left : left + side]
    if side != size:
        planes = torch.from_numpy(np.ascontiguousarray(square)).permute(0, 3, 1, 2)
        scaled = nn.functional.interpolate(planes, (size, size), mode="bilinear", antialias=True)
        square = scaled.permute(0, 2, 3, 1).numpy()
    if clip.flip:  # by torch: numpy copies mirrored pixels one by one
        square = torch.from_numpy(np.ascontiguousarray(square)).flip(2).numpy()
    return square


def read_npy_rows(file: IO[bytes], offset: int, first: int, count: int) -> NDArray[np.float16]:
    """Rows [first, first + count) of the (T, D) float16 array that begins at `offset`, as far as
    they are there. Raises ValueError where something else lies there."""
    file.seek(offset)
    length, shape = _npy_header(file.read(NPY_HEADER))
    first = min(max(0, first), shape[0])
    count = min(count, shape[0] - first)
    row_bytes = 2 * shape[1]
    file.seek(offset + length + first * row_bytes)
    content = file.read(count * row_bytes)
    return np.frombuffer(content, np.float16).reshape(count, shape[1])


@lru_cache(maxsize=4096)
def _npy_header(head: bytes) -> tuple[int, tuple[int, int]]:
    """Length of the header that `head` begins with, and the array's shape. numpy parses it as
    Python code; most of a set's are alike."""
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"spectrogram of .npy version {version}, expected (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 2 or fortran or dtype != np.float16:
        raise ValueError(f"spectrogram of {dtype} {shape}, expected float16 (T, D)")
    return file.tell(), (shape[0], shape[1])


class ClipLoader:
    """Batches of clips, read ahead by `sampling.loader_workers` processes that live as long as it.

    Use it as a context manager, one plan after the other. With `forgiving`, clips whose frames a
    video's own file does not give are said and handed on as `unread`; else they are an error.
    """

    def __init__(
        self,
        videos: VideoSet,
        config: XdcConfig,
        device: torch.device,
        *,
        forgiving: bool = False,
    ) -> None:
        self._videos = videos
        self._forgiving = forgiving
        self._unread: set[int] = set()
        self._plan = _Plan()
        workers = config.sampling.loader_workers
        self._loader = DataLoader(
            ClipReader(videos, config),
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            # a fork of a process with threads may hang
            multiprocessing_context="spawn" if workers else None,
            generator=torch.Generator(),  # what it draws is not used: leave the global one alone
        )

    def read(self, plan: Iterable[Sequence[ClipRef]]) -> Iterator[ClipBatch]:
        """A batch for each list of clips, in order. Raises AbortError naming shard and video."""
        self._plan.batches = plan
        for batch in self._loader:
            if batch.failure:
                raise AbortError(batch.failure)
            for clip in batch.unread:
                self._say(clip)
            yield batch

    def _say(self, clip: Unread) -> None:
        message = f"{self._videos.dataset}: video {self._videos.keys[clip.video]}: {clip.reason}"
        if not self._forgiving:
            raise AbortError(message)
        if clip.video in self._unread or len(self._unread) > NAMED:
            return
        self._unread.add(clip.video)
        if len(self._unread) <= NAMED:
            logger.warning("%s; its picture takes no part there", message)
        else:
            logger.warning("pictures of more videos cannot be read; unread_share counts them")

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(self, *_: object) -> None:
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()


class _Plan:
    """What DataLoader asks for the next batch; each reading has its own plan."""

    def __init__(self) -> None:
        self.batches: Iterable[Sequence[ClipRef]] = ()

    def __iter__(self) -> Iterator[list[ClipRef]]:
        return (list(batch) for batch in self.batches)


def _as_it_is(batch: Any) -> Any:
    """`__getitems__` has made a batch of it already."""
    return batch
