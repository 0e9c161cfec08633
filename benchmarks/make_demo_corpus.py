"""Make the demo corpus: short narrated videos of a dozen topics, with their labels.

    python benchmarks/make_demo_corpus.py --output pipeline/demo_corpus

A maintainer runs this once and commits what it writes; users never need it. It reads
`demo_corpus.yaml` beside it, crops and moves photographs that ship inside scikit-image and
scikit-learn, lets Flite speak the sentences, and encodes with ffmpeg. It needs the `dev` extra,
the `flite` program, and an `ffmpeg` with libx264, libvpx-vp9 and libopus (Debian 12's packages
made the committed files). With the same versions of these it writes the same bytes again.
"""

import argparse
import csv
import math
import shutil
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.io import wavfile
from scipy.signal import butter, sosfilt

Samples = NDArray[np.float64]

SEED = 20
WIDTH, HEIGHT, FPS = 320, 240, 12
SAMPLE_RATE = 16000  # what Flite speaks at, and what speech recognition listens at
SHORTEST = 5.0  # seconds, of any video
LEAD, PAUSE, TAIL = 0.4, 1.1, 0.5  # seconds before, between and after the sentences
VOICES = {"slt": 1.1, "rms": 0.98, "awb": 1.15}  # Flite voice: how far its speech is stretched
SPEECH_LEVEL, UNDER_SPEECH, ALONE = -20.0, -50.0, -28.0  # root mean squares in dBFS
ALIKE = 0.72  # two crops of a topic overlap less than this (intersection over union)
MOTIONS = ("left", "right", "up", "down", "in", "out", "left-in", "up-out")
BITEXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]
H264 = "-c:v libx264 -preset slower -crf 32 -g 60 -bsf:v filter_units=remove_types=6"
AAC = "-c:a aac -b:a 28k -movflags +faststart"
VP9 = "-c:v libvpx-vp9 -crf 44 -b:v 0 -deadline good -cpu-used 2 -g 60"
OPUS = "-c:a libopus -b:a 20k -application voip"


@dataclass(frozen=True)
class Crop:
    """A turned rectangle of the output's shape, in pixels of the photograph."""

    x: float
    y: float
    height: float
    angle: float
    """Degrees."""

    @property
    def width(self) -> float:
        """The width that goes with the height."""
        return self.height * WIDTH / HEIGHT

    def inside(self, photo: Image.Image) -> bool:
        """Whether no corner leaves the photograph."""
        cos, sin = abs(math.cos(math.radians(self.angle))), abs(math.sin(math.radians(self.angle)))
        half_x = (self.width * cos + self.height * sin) / 2
        half_y = (self.width * sin + self.height * cos) / 2
        in_x = half_x <= self.x <= photo.width - half_x
        return in_x and half_y <= self.y <= photo.height - half_y

    def overlap(self, other: "Crop") -> float:
        """Intersection over union, leaving the (small) angles out of account."""
        across = min(self.x + self.width / 2, other.x + other.width / 2) - max(
            self.x - self.width / 2, other.x - other.width / 2
        )
        down = min(self.y + self.height / 2, other.y + other.height / 2) - max(
            self.y - self.height / 2, other.y - other.height / 2
        )
        common = max(0.0, across) * max(0.0, down)
        return common / (self.width * self.height + other.width * other.height - common)


@dataclass(frozen=True)
class Shot:
    """A camera movement from one crop to another."""

    first: Crop
    last: Crop

    def at(self, progress: float) -> Crop:
        """The crop at `progress` in [0, 1]; slow at both ends."""
        s = progress * progress * (3 - 2 * progress)
        a, b = self.first, self.last
        return Crop(
            x=a.x + s * (b.x - a.x),
            y=a.y + s * (b.y - a.y),
            height=a.height * (b.height / a.height) ** s,
            angle=a.angle + s * (b.angle - a.angle),
        )


@dataclass(frozen=True)
class Spoken:
    """A sentence and when it is heard, in seconds."""

    start: float
    end: float
    text: str


# Pictures


def load_photo(photo: dict[str, Any]) -> Image.Image:
    """The photograph as RGB, turned and tinted as the topic asks."""
    package, _, inner = photo["file"].partition("/")
    with files(package).joinpath(inner).open("rb") as stream:
        image = Image.open(stream).convert("RGB")
    image = image.rotate(photo.get("turn", 0), expand=True)
    return grade(image, np.array(photo.get("tint", (1, 1, 1))), gamma=1.0)


def grade(image: Image.Image, gains: NDArray[np.float64], gamma: float) -> Image.Image:
    """The picture with its RGB channels scaled and its brightness bent."""
    scaled = np.clip((np.asarray(image) / 255.0) ** gamma * gains, 0, 1)
    return Image.fromarray(np.round(scaled * 255).astype(np.uint8))


def vary(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture in slightly different light: warmer or cooler, darker or brighter."""
    return grade(image, 1 + rng.uniform(-0.09, 0.09, 3), gamma=rng.uniform(0.85, 1.15))


def draw_shot(
    rng: np.random.Generator, image: Image.Image, photo: dict[str, Any], motion: str
) -> Shot | None:
    """A random movement of the given direction, or None if it leaves the photograph."""
    low, high = photo["height"]
    x, y = rng.uniform(*photo["centre_x"]), rng.uniform(*photo["centre_y"])
    height = image.height * math.exp(rng.uniform(math.log(low), math.log(high)))
    centre = Crop(x * image.width, y * image.height, height, rng.uniform(-4, 4))
    step = rng.uniform(0.06, 0.16) * height
    dx = step * (("right" in motion) - ("left" in motion))
    dy = step * (("down" in motion) - ("up" in motion))
    zoom = rng.uniform(1.06, 1.16) ** (("out" in motion) - ("in" in motion))
    turn = rng.uniform(-2.5, 2.5)
    shot = Shot(
        Crop(centre.x - dx, centre.y - dy, height / zoom, centre.angle - turn),
        Crop(centre.x + dx, centre.y + dy, height * zoom, centre.angle + turn),
    )
    return shot if shot.first.inside(image) and shot.last.inside(image) else None


def choose_shot(
    rng: np.random.Generator,
    image: Image.Image,
    photo: dict[str, Any],
    motion: str,
    taken: list[Shot],
) -> Shot:
    """A shot unlike all `taken` ones of this photograph, so that no two videos look the same."""
    for _ in range(20000):
        shot = draw_shot(rng, image, photo, motion)
        if shot is None:
            continue
        if all(shot.at(0.5).overlap(other.at(0.5)) < ALIKE for other in taken):
            return shot
    raise SystemExit(f"{photo['file']}: no further crop unlike the others; widen centre or height")


def render(image: Image.Image, crop: Crop) -> Image.Image:
    """One frame of the crop; one that shrinks is drawn twice as large, against jagged edges."""
    size = 2 if crop.height > HEIGHT else 1
    scale = crop.height / (size * HEIGHT)
    cos = scale * math.cos(math.radians(crop.angle))
    sin = scale * math.sin(math.radians(crop.angle))
    half_width, half_height = size * WIDTH / 2, size * HEIGHT / 2
    affine = (cos, -sin, crop.x - cos * half_width + sin * half_height)
    affine += (sin, cos, crop.y - sin * half_width - cos * half_height)
    large = image.transform(
        (size * WIDTH, size * HEIGHT), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return large.reduce(size)


def render_video(image: Image.Image, shots: list[Shot], num_frames: int, mirrored: bool) -> bytes:
    """All frames as RGB bytes, the shots one after the other and equally long."""
    frames = []
    for i in range(num_frames):
        which, progress = divmod(i * len(shots) / num_frames, 1)
        frame = render(image, shots[int(which)].at(progress))
        frames.append((ImageOps.mirror(frame) if mirrored else frame).tobytes())
    return b"".join(frames)


# Sound


def speak(text: str, voice: str) -> Samples:
    """The sentence in a Flite voice, without the silence around it, at SPEECH_LEVEL."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "speech.wav")
        slower = ["--setf", f"duration_stretch={VOICES[voice]}"]
        subprocess.run(["flite", "-voice", voice, *slower, "-t", text, "-o", wav], check=True)
        rate, pcm = wavfile.read(wav)
    assert rate == SAMPLE_RATE, f"flite's voice {voice} speaks at {rate} Hz"
    heard = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 300)
    return at_level(pcm[heard[0] : heard[-1] + 1] / 32768.0, SPEECH_LEVEL)


def at_level(sound: Samples, level: float) -> Samples:
    """The sound scaled to a root mean square of `level` dBFS, clipped at full scale."""
    rms = math.sqrt(float(np.mean(sound**2)))
    return np.clip(sound * 10 ** (level / 20) / rms, -0.98, 0.98)


def narrate(sentences: list[str], voice: str) -> tuple[Samples, list[Spoken]]:
    """The sentences one after the other with pauses between, and when each is heard."""
    parts, spoken, now = [np.zeros(round(LEAD * SAMPLE_RATE))], [], LEAD
    for sentence in sentences:
        sound = speak(sentence, voice)
        end = now + len(sound) / SAMPLE_RATE
        spoken.append(Spoken(now, end, sentence))
        parts += [sound, np.zeros(round(PAUSE * SAMPLE_RATE))]
        now = end + PAUSE
    parts[-1] = np.zeros(round(TAIL * SAMPLE_RATE))
    return np.concatenate(parts), spoken


def background(kind: dict[str, Any], num_samples: int, rng: np.random.Generator) -> Samples:
    """The topic's sound without speech, at a root mean square of 0 dBFS (not yet clipped)."""
    time = np.arange(num_samples) / SAMPLE_RATE
    match kind["kind"]:
        case "noise":
            low_pass = butter(2, kind["cutoff"], fs=SAMPLE_RATE, output="sos")
            sound = sosfilt(low_pass, rng.standard_normal(num_samples))
            sound *= 1 + 0.7 * np.sin(2 * np.pi * kind["tremolo"] * time)
        case "drone":
            phases = rng.uniform(0, 2 * np.pi, len(kind["pitches"]))
            voices = zip(kind["pitches"], phases, strict=True)
            sound = sum(np.sin(2 * np.pi * hz * time + phase) for hz, phase in voices)
        case "pings":
            sound = pings(kind, time, rng)
        case other:
            raise SystemExit(f"background {other!r}: noise, drone and pings are known")
    return sound / np.sqrt(np.mean(sound**2))


def pings(kind: dict[str, Any], time: Samples, rng: np.random.Generator) -> Samples:
    """Short notes at random times that decay, and glide if `sweep` is not 1."""
    sound = np.full_like(time, 1e-4)
    for start in np.arange(0.1, time[-1], 1 / kind["rate"]):
        since = time - start - rng.uniform(0, 0.4 / kind["rate"])
        since = np.where(since < 0, np.inf, since)
        envelope = np.exp(-since / kind["decay"])
        glide = 1 + (kind.get("sweep", 1) - 1) * np.minimum(since, 4 * kind["decay"])
        phase = 2 * np.pi * rng.choice(kind["pitches"]) * np.minimum(since, 9.0) * glide
        sound += envelope * np.sin(phase)
    return sound


def sound_track(
    video: dict[str, Any], topic: dict[str, Any], voice: str, clean: bool, rng: np.random.Generator
) -> tuple[Samples, list[Spoken]]:
    """The whole sound of one video, a whole number of frames long, and its sentences.

    `clean` leaves the background away from under the voice.
    """
    speech, spoken = narrate(video.get("say", []), voice)
    num_frames = math.ceil(max(SHORTEST, len(speech) / SAMPLE_RATE) * FPS)
    sound = np.zeros(round(num_frames * SAMPLE_RATE / FPS))
    sound[: len(speech)] = speech
    level = UNDER_SPEECH if spoken else ALONE
    if video.get("sound") == "ambience" or (spoken and not clean):
        sound += background(topic["background"], len(sound), rng) * 10 ** (level / 20)
    return np.clip(sound, -0.99, 0.99), spoken


# Files


def encode(target: Path, frames: bytes, sound: Samples | None) -> None:
    """Write frames and sound (None: no sound track) as the format of the target's name."""
    picture, voice = (VP9, OPUS) if target.suffix == ".webm" else (H264, AAC)
    with tempfile.TemporaryDirectory() as folder:
        command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "pipe:"]
        if sound is not None:
            wav = Path(folder, "sound.wav")
            wavfile.write(wav, SAMPLE_RATE, np.round(sound * 32767).astype(np.int16))
            command += ["-i", str(wav), *voice.split()]
        command += [*picture.split(), "-pix_fmt", "yuv420p", "-threads", "1"]
        command += ["-map_metadata", "-1", *BITEXACT, str(target)]
        subprocess.run(command, input=frames, check=True)


def stamp(time: float, point: str) -> str:
    """`time` as HH:MM:SS and milliseconds: 00:00:01,250 for a comma as the point."""
    ms = round(time * 1000)
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def captions(spoken: list[Spoken], kind: str, topic: str) -> str:
    """The text of a caption file: `srt`, `vtt`, or `vtt_styled` with a header and cue settings."""
    point = "," if kind == "srt" else "."
    settings = " line:85% align:center" if kind == "vtt_styled" else ""
    cues = [
        f"{number}\n{stamp(one.start, point)} --> {stamp(one.end, point)}{settings}\n{one.text}\n"
        for number, one in enumerate(spoken, start=1)
    ]
    if kind == "vtt":
        cues.insert(0, "WEBVTT\n")
    if kind == "vtt_styled":
        header = f"WEBVTT - {topic}\nKind: captions\nLanguage: en\n"
        cues[:0] = [header, "NOTE Times as measured in the sound.\n"]
    return "\n".join(cues)


def make_video(
    video: dict[str, Any],
    topic: dict[str, Any],
    shots: list[Shot],
    image: Image.Image,
    stem: Path,
    order: int,
) -> Path:
    """Write one video and its captions beside `stem`; `order` counts all videos, from 0."""
    rng = np.random.default_rng((SEED, order))
    voice = list(VOICES)[order % len(VOICES)]
    sound, spoken = sound_track(video, topic, voice, clean=order % 4 == 0, rng=rng)
    num_frames = round(len(sound) * FPS / SAMPLE_RATE)
    target = stem.with_suffix("." + video.get("format", "mp4"))
    frames = render_video(vary(image, rng), shots, num_frames, mirrored=rng.random() < 0.5)
    encode(target, frames, None if video.get("sound") == "none" else sound)
    if kind := video.get("captions"):
        text = captions(spoken, kind, topic["name"])
        stem.with_suffix("." + kind.partition("_")[0]).write_text(text)
    return target


def make_topic(topic: dict[str, Any], position: int, folder: Path) -> list[list[str]]:
    """Write a topic's videos; returns their rows of labels.csv."""
    image, taken = load_photo(topic["photo"]), list[Shot]()
    rng = np.random.default_rng((SEED, 1000 + position))
    videos = [(split, video) for split in ("train", "test") for video in topic[split]]
    rows = []
    for number, (split, video) in enumerate(videos):
        order = position * len(videos) + number
        shots = []
        for _ in range(video.get("shots", 1)):
            motion = MOTIONS[(3 * position + len(taken)) % len(MOTIONS)]
            shots.append(choose_shot(rng, image, topic["photo"], motion, taken))
            taken.append(shots[-1])
        stem = folder / f"{topic['name']}_{number + 1:02}"
        target = make_video(video, topic, shots, image, stem, order)
        spoken = " ".join(video.get("say", []))
        rows.append([f"{folder.name}/{target.name}", topic["name"], split, spoken])
    return rows


def make_corpus(topics: list[dict[str, Any]], output: Path) -> None:
    """Write `output`/videos anew, and `output`/labels.csv."""
    folder = output / "videos"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        topics_rows = pool.map(make_topic, topics, range(len(topics)), repeat(folder))
        rows = [row for rows in topics_rows for row in rows]
    print(f"{len(rows)} videos of {len(topics)} topics in {output}")
    with (output / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "label", "split", "sentences"])
        writer.writerows(rows)


def main() -> None:
    """Read the command line and make the corpus."""
    parser = argparse.ArgumentParser(description="Make the demo corpus.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    table = yaml.safe_load(Path(__file__).with_name("demo_corpus.yaml").read_text())
    make_corpus(table["topics"], arguments.output)


if __name__ == "__main__":
    main()
