"""Make the av_digits corpus: short videos of a handwritten digit while the same digit is spoken.

    python benchmarks/av_digits/corpus.py --speech fsdd.tar.gz --output CORPUS

The picture is a sample of scikit-learn's `load_digits`, in a random colour, that moves, turns and
deforms over a drifting photograph of scikit-image. The sound is recordings of the Free Spoken
Digit Dataset (`--speech`: its tar, members recordings/DIGIT_SPEAKER_N.wav): one speaker says the
digit again and again, in noise of a random level and colour. Nothing but the digit links the two.
It writes videos/KEY.mp4, videos.csv with label and split, and takes.csv: what each video was made
of. Split by recording (N below 5 is the test set: FSDD's own rule) and by handwriting sample (a
quarter of each digit's). Needs the `dev` extra. The same seed draws the same corpus.
"""

import argparse
import csv
import io
import math
import re
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import cycle, islice, repeat
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.io import wavfile
from scipy.ndimage import map_coordinates, zoom
from scipy.signal import resample_poly
from sklearn.datasets import load_digits

SIDE, FPS, SECONDS = 72, 10, 2.4
SAMPLE_RATE = 16000
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_SHARE, TEST_RECORDINGS = 0.25, 5
SPEECH_LEVEL = (-26.0, -14.0)  # root mean square in dBFS, least and most
NOISE_BELOW = (15.0, 30.0)  # decibel under the speech
NOISE_TILT = (0.0, 1.0)  # power falls by this exponent of the frequency: white to pink
PAUSE = 0.05  # seconds between two recordings
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png",
    "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
PICTURE = "-c:v libx264 -preset ultrafast -crf 20 -g 10 -pix_fmt yuv420p -threads 1"
SOUND = "-c:a aac -b:a 48k"
BITEXACT = "-fflags +bitexact -flags:v +bitexact -flags:a +bitexact -map_metadata -1"

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """One spoken digit."""

    name: str
    digit: int
    speaker: str
    number: int
    sound: Samples
    """At SAMPLE_RATE."""


@dataclass(frozen=True)
class Take:
    """What one video is made of."""

    key: str
    split: str
    digit: int
    sample: int
    """Number of the picture in `load_digits`."""
    recordings: tuple[str, ...]
    """In the order in which they are heard."""
    speaker: str
    photograph: str
    noise_below: float
    """Decibel."""


# What is drawn


def read_recordings(archive: Path) -> list[Recording]:
    """All recordings of FSDD's tar, sorted by name."""
    found = []
    with tarfile.open(archive) as tar:
        for member in tar:
            name = re.search(r"(\d)_([a-z]+)_(\d+)\.wav$", member.name)
            stream = tar.extractfile(member) if name else None
            if name is None or stream is None:
                continue
            rate, pcm = wavfile.read(io.BytesIO(stream.read()))
            sound = resample_poly(pcm / 32768.0, SAMPLE_RATE // 1000, rate // 1000)
            found.append(Recording(name[0], int(name[1]), name[2], int(name[3]), sound))
    return sorted(found, key=lambda recording: recording.name)


def split_samples(digits: Sequence[int], seed: int) -> dict[tuple[str, int], list[int]]:
    """Numbers of the handwriting samples of either split and each digit, in random order."""
    rng = np.random.default_rng((seed, 1))
    found = {}
    for digit in range(10):
        numbers = rng.permutation(np.flatnonzero(np.array(digits) == digit)).tolist()
        tested = round(TEST_SHARE * len(numbers))
        found["test", digit], found["train", digit] = numbers[:tested], numbers[tested:]
    return found


def plan_takes(
    recordings: Sequence[Recording], digits: Sequence[int], count: int, tested: int, seed: int
) -> list[Take]:
    """`count` training videos and `tested` of the test set, each digit equally often, each
    sample of a digit as often as the others; the speakers at random."""
    rng = np.random.default_rng((seed, 2))
    samples = {part: cycle(numbers) for part, numbers in split_samples(digits, seed).items()}
    spoken: dict[tuple[str, int], list[Recording]] = defaultdict(list)
    for recording in recordings:
        split = "test" if recording.number < TEST_RECORDINGS else "train"
        spoken[split, recording.digit].append(recording)
    takes = []
    for split, wanted in (("train", count), ("test", tested)):
        for number, digit in enumerate(islice(cycle(range(10)), wanted)):
            heard = draw_recordings(spoken[split, digit], rng)
            takes.append(
                Take(
                    f"{split}{number:05d}", split, digit, next(samples[split, digit]),
                    tuple(one.name for one in heard), heard[0].speaker,
                    str(rng.choice(PHOTOGRAPHS)), rng.uniform(*NOISE_BELOW),
                )
            )  # fmt: skip
    return takes


def draw_recordings(spoken: Sequence[Recording], rng: np.random.Generator) -> list[Recording]:
    """Of one speaker, as many as last for longer than the video by half a second."""
    speaker = spoken[int(rng.integers(len(spoken)))].speaker
    own = [recording for recording in spoken if recording.speaker == speaker]
    found: list[Recording] = []
    while sum(len(one.sound) / SAMPLE_RATE + PAUSE for one in found) < SECONDS + 0.5:
        found.append(own[int(rng.integers(len(own)))])
    return found


# Pictures


def render_frames(
    take: Take, ink: NDArray[np.float64], count: int, rng: np.random.Generator
) -> bytes:
    """RGB frames: the digit on a straight path over a drifting photograph."""
    ground = draw_background(take.photograph, rng)
    corner = rng.uniform(0, [[ground.width - SIDE], [ground.height - SIDE]], (2, 2))
    masks = deform(ink, count, rng)
    colour = draw_colour(float(np.asarray(ground.convert("L")).mean()), rng)
    frames = []
    for progress, mask in zip(np.linspace(0, 1, count), masks, strict=True):
        x, y = corner @ (1 - progress, progress)
        below = ground.crop((int(x), int(y), int(x) + SIDE, int(y) + SIDE))
        mixed = np.asarray(below) * (1 - mask[..., None]) + colour * mask[..., None]
        frames.append(mixed.round().astype(np.uint8).tobytes())
    return b"".join(frames)


def draw_background(photograph: str, rng: np.random.Generator) -> Image.Image:
    """A photograph somewhat larger than the frame, at random size, a little out of focus."""
    with files("skimage").joinpath("data", photograph).open("rb") as stream:
        photo = Image.open(stream).convert("RGB")
    scale = max(SIDE / photo.width, SIDE / photo.height) * rng.uniform(1.2, 2.5)
    size = math.ceil(scale * photo.width), math.ceil(scale * photo.height)
    blurred = photo.resize(size).filter(ImageFilter.GaussianBlur(1.0))
    grey = int(rng.integers(40, 216))
    return Image.blend(blurred, Image.new("RGB", size, (grey, grey, grey)), rng.uniform(0.3, 0.7))


def draw_colour(ground: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random colour, light on a dark background and dark on a light one (`ground`: 0 to 255)."""
    low, high = (0, 90) if ground > 127 else (165, 255)
    return rng.uniform(low, high, 3)


def deform(
    ink: NDArray[np.float64], count: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """(SIDE, SIDE) in 0..1 for each of `count` frames, of the digit's (8, 8).

    From one random affine map to another, and a wave of a random direction that runs through.
    """
    plain = zoom(np.pad(ink, 1), 6, order=3)
    size = rng.uniform(0.6, 0.85, 2) * SIDE
    angle, shear = rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.2, 0.2, 2)
    centre = SIDE * rng.uniform(0.42, 0.58, (2, 2))
    wave, phase, speed = rng.normal(0, 0.09, (2, 2)), rng.uniform(0, 6.3), rng.uniform(-4, 4)
    rows = np.stack(np.mgrid[0:SIDE, 0:SIDE]).reshape(2, -1).astype(float)
    for progress in np.linspace(0, 1, count):
        at = np.array([1 - progress, progress])
        turn, lean, scale = float(angle @ at), float(shear @ at), len(plain) / float(size @ at)
        matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        matrix = matrix @ np.array([[1.0, 0.0], [lean, 1.0]]) * scale
        where = matrix @ (rows - (centre @ at)[:, None]) + len(plain) / 2
        where += 1.5 * np.sin(wave @ where + phase + speed * progress)
        mask = map_coordinates(plain, where, order=1, cval=0.0).reshape(SIDE, SIDE)
        yield np.clip((mask - 0.25) * 2.5, 0, 1)


# Sound


def sound_track(take: Take, spoken: Sequence[Samples], rng: np.random.Generator) -> Samples:
    """SECONDS of the recordings, from a random time of the first one on, in noise."""
    count = round(SECONDS * SAMPLE_RATE)
    level = rng.uniform(*SPEECH_LEVEL)
    pause = np.zeros(round(PAUSE * SAMPLE_RATE))
    heard = np.concatenate([part for one in spoken for part in (at_level(one, level), pause)])
    first = int(rng.integers(len(heard) - count + 1))
    noise = at_level(coloured_noise(count, rng), level - take.noise_below)
    return heard[first : first + count] + noise


def coloured_noise(count: int, rng: np.random.Generator) -> Samples:
    """Gaussian, its power falling with a random exponent of the frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 50.0)
    return np.fft.irfft(spectrum * frequency ** (-rng.uniform(*NOISE_TILT) / 2), count)


def at_level(sound: Samples, level: float) -> Samples:
    """The sound scaled to a root mean square of `level` dBFS."""
    rms = math.sqrt(float(np.mean(sound**2))) or 1.0
    return sound * 10 ** (level / 20) / rms


# Files


def make_video(
    take: Take,
    spoken: Sequence[Samples],
    ink: NDArray[np.float64],
    folder: Path,
    seed: int,
    number: int,
) -> None:
    """Writes KEY.mp4 of video `number`."""
    rng = np.random.default_rng((seed, 3, number))
    sound = sound_track(take, spoken, rng)
    encode(folder / f"{take.key}.mp4", render_frames(take, ink, round(SECONDS * FPS), rng), sound)


def encode(target: Path, frames: bytes, sound: Samples) -> None:
    """H.264 and AAC in mp4, without dates or versions."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "sound.wav")
        pcm = np.round(np.clip(sound, -0.99, 0.99) * 32767).astype(np.int16)
        wavfile.write(wav, SAMPLE_RATE, pcm)
        command = [get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{SIDE}x{SIDE}", "-r", str(FPS), "-i", "pipe:", "-i", str(wav)]
        command += [*PICTURE.split(), *SOUND.split(), *BITEXACT.split(), str(target)]
        subprocess.run(command, input=frames, check=True)


def write_tables(folder: Path, takes: Sequence[Take]) -> None:
    """videos.csv, which `pipeline run extract --input` reads, and takes.csv."""
    with (folder / "videos.csv").open("w", newline="", encoding="utf-8") as stream:
        videos = csv.writer(stream)
        videos.writerow(["path", "key", "label", "split"])
        for take in takes:
            videos.writerow([f"videos/{take.key}.mp4", take.key, NAMES[take.digit], take.split])
    with (folder / "takes.csv").open("w", newline="", encoding="utf-8") as stream:
        facts = csv.DictWriter(stream, asdict(takes[0]))
        facts.writeheader()
        for take in takes:
            told = {
                "recordings": " ".join(take.recordings),
                "noise_below": f"{take.noise_below:.1f}",
            }
            facts.writerow(asdict(take) | told)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--speech", type=Path, required=True, help="fsdd.tar.gz")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1200, help="videos")
    parser.add_argument("--test", type=int, default=300, help="videos")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    recordings = {recording.name: recording for recording in read_recordings(arguments.speech)}
    if not recordings:
        raise SystemExit(f"{arguments.speech}: no recordings/DIGIT_SPEAKER_N.wav in it")
    digits = load_digits()
    wanted = arguments.train, arguments.test
    takes = plan_takes(list(recordings.values()), digits.target, *wanted, arguments.seed)
    folder = arguments.output / "videos"
    folder.mkdir(parents=True, exist_ok=True)
    sounds = ([recordings[name].sound for name in take.recordings] for take in takes)
    inks = (digits.images[take.sample] / 16 for take in takes)
    with ProcessPoolExecutor(arguments.workers) as pool:
        jobs = (takes, sounds, inks, repeat(folder), repeat(arguments.seed), range(len(takes)))
        for done, _ in enumerate(pool.map(make_video, *jobs, chunksize=4), start=1):
            if done % 200 == 0:
                print(f"{done}/{len(takes)} videos", flush=True)
    write_tables(arguments.output, takes)


if __name__ == "__main__":
    main()
