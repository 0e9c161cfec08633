"""The datasets of XDC's benchmark: corpora that ffmpeg makes, extracted as the commands do it."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from measuring import Command, run

from extractors.ffmpeg import ffmpeg_binary
from pipeline.cli.options import load_config
from training.xdc.config import XdcConfig
from training.xdc.video_set import VideoSet, open_video_set

DIGITS = Path(__file__).parent / "av_digits" / "preset.yaml"


@dataclass(frozen=True)
class Corpus:
    """Videos of one length: ffmpeg's test picture under noise, pink noise for a sound."""

    seconds: float
    size: str
    rate: int


SHORT = Corpus(2.4, "72x72", 10)
"""As benchmarks/av_digits has them."""
LONG = Corpus(10.0, "320x240", 15)
"""As long as Kinetics' clips."""


@dataclass(frozen=True)
class Setting:
    """What is extracted and trained."""

    corpus: Corpus
    extract: tuple[str, ...]
    """Arguments of `run extract`."""
    train: tuple[str, ...]
    """Arguments of `run train`."""
    config: XdcConfig
    """What these give."""


def settings() -> dict[str, Setting]:
    """By name. digits: benchmarks/av_digits. laptop: the preset. paper: the defaults, R(2+1)D-18
    and ResNet-18, whose proxies are those of the preset at 128 pixels."""
    digits = ("--preset", "xdc", "--config", str(DIGITS))
    laptop = ("--preset", "xdc")
    larger = (*laptop, "--set", "extract.proxy.short_side=128")
    return {
        "digits": Setting(SHORT, digits, digits, load_config("xdc", DIGITS, None).xdc),
        "laptop": Setting(LONG, laptop, laptop, load_config("xdc", None, None).xdc),
        "paper": Setting(LONG, larger, ("--preset", "reference"), XdcConfig()),
    }


@dataclass(frozen=True)
class BenchSet:
    """A setting's dataset."""

    name: str
    setting: Setting
    dataset: Path
    videos: VideoSet

    @property
    def config(self) -> XdcConfig:
        """Read by this process, with the table of no proxy at hand: as in a set of so many videos
        that none comes back while it is kept."""
        return changed(self.setting.config, loader_workers=0, open_proxies=1)


def changed(config: XdcConfig, **sampling: object) -> XdcConfig:
    """The same with other settings of `sampling`."""
    return config.model_copy(update={"sampling": config.sampling.model_copy(update=sampling)})


def make_set(name: str, count: int, folder: Path, core: int) -> BenchSet:
    """`count` videos, extracted."""
    setting = settings()[name]
    videos = make_videos(folder / f"{setting.corpus.seconds:g}_s_{count}", setting.corpus, count)
    dataset = folder / name
    line = [sys.executable, "-m", "pipeline", "run", "extract", "--input", str(videos), "--output",
            str(dataset), "--device", "cpu", *setting.extract]  # fmt: skip
    run(Command(line, {core}), folder / f"{name}.log")
    found = open_video_set(str(dataset), setting.config)
    return BenchSet(name, setting, dataset, found)


def make_videos(folder: Path, corpus: Corpus, count: int) -> Path:
    """One long video, cut into `count`. A folder that is there is kept."""
    if folder.exists():
        return folder
    folder.mkdir()
    length, pieces = f"{corpus.seconds * count:g}", f"{corpus.seconds:g}"
    picture = f"testsrc2=s={corpus.size}:r={corpus.rate}:d={length},noise=alls=8:allf=t"
    sound = f"anoisesrc=r=16000:d={length}:c=pink:a=0.3:seed=1,tremolo=f=3:d=0.8"
    subprocess.run(
        [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound,
         "-c:v", "libx264", "-preset", "ultrafast", "-crf", "23", "-pix_fmt", "yuv420p",
         "-force_key_frames", f"expr:gte(t,n_forced*{pieces})", "-c:a", "aac", "-b:a", "48k",
         "-f", "segment", "-segment_time", pieces, "-reset_timestamps", "1",
         str(folder / "video_%04d.mp4")],
        check=True,
    )  # fmt: skip
    return folder


def write_proxies(made: BenchSet, folder: Path) -> list[Path]:
    """The proxies as files, without their sound, which the loader does not read either."""
    folder.mkdir()
    found = []
    for number, (offset, size) in enumerate(made.videos.proxy_N2.tolist()):
        shard = made.dataset / "shards" / f"{int(made.videos.shard_N[number]):06d}.tar"
        with shard.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        whole, silent = folder / "whole.mp4", folder / f"{number:04d}.mp4"
        whole.write_bytes(content)
        line = [ffmpeg_binary(), "-v", "error", "-i", str(whole), "-c", "copy", "-an", str(silent)]
        subprocess.run(line, check=True)
        found.append(silent)
    return found
