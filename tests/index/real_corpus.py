"""Small real videos all the way to an index, for what needs files, proxies and models."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from extractors.ffmpeg import ffmpeg_binary
from pipeline.cli.options import load_config
from pipeline.cli.run import run_stages

SETTINGS = """
extract:
  videos_per_shard: 3
  extractors:
    visual_2d: {kind: mean_colour, rate: 2}
    visual_3d: null
    audio: {kind: log_mel}
  speech: {recognise: false}
  proxy: {rate: 8, short_side: 48}
train:
  epochs: 1
  sampling: {visual_tracks: [visual_2d], batch_videos: 4, clips_per_video: 2, min_time: 1.0}
  model: {embedding_dim: 32, audio_widths: [8], audio_blocks: 1, decoder_dim: 8}
  clustering: {clusters: 2, queue_rows: 8}
"""
SAID = {
    "red": "a red fire truck",
    "green": "fresh green grass",
    "blue": "the deep blue sea",
    "white": "white snow in winter",
}
SECONDS = 4


@dataclass(frozen=True)
class RealCorpus:
    """Where everything lies."""

    folder: Path

    @property
    def videos(self) -> Path:
        """red.mp4, green.mp4, blue.mp4 and white.mp4, two captions each; quiet.mp4 has neither
        sound nor captions; tone.wav has no picture."""
        return self.folder / "videos"

    @property
    def index(self) -> str:
        """Ten clips: two of each colour, one each of the others."""
        return str(self.folder / "out" / "index")

    @property
    def dataset(self) -> str:
        """Two shards, with proxies."""
        return str(self.folder / "out" / "dataset")


def make_corpus(folder: Path) -> RealCorpus:
    """Encodes the videos, extracts, trains one epoch and indexes: about fifteen seconds."""
    made = RealCorpus(folder)
    made.videos.mkdir(parents=True)
    for number, (name, words) in enumerate(SAID.items()):
        _encode(made.videos / f"{name}.mp4", name, tone=220 * (number + 1))
        first, second = f"00:00:00,000 --> 00:00:02,000\n{words}", "00:00:02,000 --> 00:00:04,000"
        captions = f"1\n{first}\n\n2\n{second}\nthis was {words}\n"
        (made.videos / f"{name}.srt").write_text(captions)
    _encode(made.videos / "quiet.mp4", "black", tone=None)
    tone = ["-f", "lavfi", "-i", f"sine=f=990:r=16000:d={SECONDS}"]
    _ffmpeg(*tone, str(made.videos / "tone.wav"))
    rows = [f"{path.name},{path.stem[0]}" for path in sorted(made.videos.glob("*.[mw][pa][4v]"))]
    source = made.videos / "list.csv"
    source.write_text("\n".join(["path,label", *rows]) + "\n")
    file = folder / "settings.yaml"
    file.write_text(SETTINGS)
    settings = load_config("embedded", file, [])
    run_stages(str(source), str(folder / "out"), settings, "local", 1, "cpu")
    return made


def _encode(path: Path, colour: str, tone: int | None) -> None:
    inputs = ["-f", "lavfi", "-i", f"color=c={colour}:s=64x48:r=8:d={SECONDS}"]
    if tone is not None:
        inputs += ["-f", "lavfi", "-i", f"sine=f={tone}:r=16000:d={SECONDS}"]
    _ffmpeg(*inputs, "-c:v", "mpeg4", "-q:v", "2", "-c:a", "aac", str(path))


def _ffmpeg(*arguments: str) -> None:
    command = [ffmpeg_binary(), "-v", "error", *arguments]
    subprocess.run(command, check=True, timeout=60)
