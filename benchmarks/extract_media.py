"""The videos of the extraction benchmark: made by ffmpeg, spoken over by the demo corpus."""

import os
import subprocess
from importlib import resources
from pathlib import Path

from extractors.ffmpeg import ffmpeg_binary


def make_video(path: Path, seconds: float, size: str = "1280x720") -> Path:
    """H.264 at 30 frames/s and AAC at 44.1 kHz. The picture is ffmpeg's test picture under noise
    (720p: 2 Mbit/s, as video sites have it), the sound is speech of the demo corpus."""
    speech = path.with_suffix(".txt")
    speech.write_text("".join(f"file '{video}'\n" for video in spoken()))
    picture = f"testsrc2=s={size}:r=30:d={seconds},noise=alls=12:allf=t"
    subprocess.run(
        [ffmpeg_binary(), "-v", "error", "-y", "-f", "lavfi", "-i", picture, "-stream_loop", "-1",
         "-f", "concat", "-safe", "0", "-i", str(speech), "-map", "0:v", "-map", "1:a",
         "-t", str(seconds), "-c:v", "libx264", "-preset", "veryfast", "-crf", "28", "-g", "250",
         "-pix_fmt", "yuv420p", "-c:a", "aac", "-ar", "44100", str(path)],
        check=True,
    )  # fmt: skip
    speech.unlink()
    return path


def spoken() -> list[Path]:
    """The demo corpus's mp4 files: all of one kind, so that they can be joined."""
    folder = Path(str(resources.files("pipeline").joinpath("demo_corpus", "videos")))
    return sorted(folder.glob("*.mp4"))


def make_copies(clip: Path, folder: Path, count: int) -> list[Path]:
    """Numbered copies (links) of one clip."""
    folder.mkdir(parents=True)
    copies = [folder / f"clip_{number:03d}.mp4" for number in range(count)]
    for copy in copies:
        os.link(clip, copy)
    return copies


def make_long_video(path: Path, seconds: int) -> Path:
    """A tone under small, slow pictures: hours of it decode in seconds, and nobody speaks."""
    subprocess.run(
        [ffmpeg_binary(), "-v", "error", "-y", "-f", "lavfi", "-i",
         f"testsrc2=s=96x64:r=2:d={seconds}", "-f", "lavfi", "-i",
         f"sine=440:r=16000:d={seconds}", "-c:v", "libx264", "-preset", "ultrafast", "-g", "50",
         "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest", str(path)],
        check=True,
    )  # fmt: skip
    return path
