"""Make the stamps corpus: some 2,000 short narrated videos of 517 labelled objects.

    python benchmarks/stamps/corpus.py --stamps /usr/share/tuxpaint/stamps --output CORPUS

Every video shows one stamp of Tux Paint (Debian: tuxpaint-stamps-default; pictures, captions and
sound effects) that moves, turns and grows or shrinks over a photograph from scikit-image, while
Flite speaks a sentence made from the stamp's caption. A stamp has several videos, unlike in
sentence, voice, path and background. It writes videos/KEY.mp4, videos/KEY.srt (another sentence on
it, from the first to the last moment) and fold0.csv to fold3.csv: the same videos with label (the
category) and split. Folds are by object: stamps whose captions end in the same noun are in one of
them, which is the test set of its table. Needs the `dev` extra, the `flite` program and an ffmpeg
with libx264. The same seed draws the same corpus.
"""

import argparse
import csv
import math
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from itertools import repeat
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.io import wavfile
from scipy.signal import resample_poly

WIDTH, HEIGHT, FPS = 160, 120, 8
SAMPLE_RATE = 16000
SHORTEST, LEAD, TAIL = 4.0, 0.25, 0.2  # seconds: of a video, and of silence around the speech
EFFECT, GAP = 1.2, 0.1  # seconds: the longest piece of a sound effect, and the pause before it
SPEECH_LEVEL, EFFECT_LEVEL, NOISE_LEVEL = -20.0, -24.0, -55.0  # root mean squares in dBFS
VOICES = ("slt", "rms", "awb", "kal16")
FOLDS = 4
LONGEST_NAME = 7  # words; longer captions are stories, not names
SIZE = (0.6, 0.9)  # of a stamp's longer side, least and most, in heights of the frame
ACROSS = (0.3, 0.7)  # where a stamp's centre may lie, in widths of the frame
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png",
    "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
SENTENCES = (
    "Look, here comes {name}.", "This is {name}.", "Here you can see {name}.",
    "Watch {name} move along.", "Now we are looking at {name}.", "Can you find {name}?",
    "What you see now is {name}.", "I would like to show you {name}.", "There goes {name}!",
    "In this short film we meet {name}.", "Do you know {name}?", "The next picture has {name}.",
    "My favourite is {name}.", "Today's picture is {name}.", "See how {name} turns around.",
    "Somebody has drawn {name} for us.",
)  # fmt: skip
ENCODE = "-c:v libx264 -preset veryfast -crf 28 -g 16 -pix_fmt yuv420p -threads 1 -c:a aac -b:a 40k"
BITEXACT = "-fflags +bitexact -flags:v +bitexact -flags:a +bitexact -map_metadata -1"

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Stamp:
    """One labelled picture."""

    key: str
    picture: Path
    category: str
    names: tuple[str, ...]
    """What a sentence may call it: the caption, and what the caption gives in brackets."""
    effect: Path | None
    """Its sound."""

    @property
    def noun(self) -> str:
        """The object: the last word of the name, without ending. Splits keep it on one side."""
        words = re.split(r" (?:with|from|in|on|at) ", self.names[0])[0].split()
        return re.sub(r"e?s$", "", words[-1].lower())


# Stamps


def find_stamps(root: Path) -> list[Stamp]:
    """All pictures with a short caption, but letters, digits and money; sorted by path."""
    found = (read_stamp(root, picture) for picture in sorted(root.rglob("*.png")))
    return [stamp for stamp in found if stamp is not None]


def read_stamp(root: Path, picture: Path) -> Stamp | None:
    """None where there is no caption that names the object."""
    relative, text = picture.relative_to(root), picture.with_suffix(".txt")
    if relative.parts[0] == "symbols" or not text.exists():
        return None
    names = read_names(text.read_text(encoding="utf-8").splitlines()[0])
    if not names:
        return None
    sounds = (picture.with_suffix(suffix) for suffix in (".ogg", ".wav"))
    return Stamp(
        key=re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(relative.with_suffix("").parts)),
        picture=picture,
        category=relative.parts[0],
        names=names,
        effect=next((sound for sound in sounds if sound.exists()), None),
    )


def read_names(caption: str) -> tuple[str, ...]:
    """'A peacock (a male peafowl).' gives 'a peacock' and 'a male peafowl'; () for a story."""
    plain = re.sub("[“”\"']", "", caption.replace("’", "'"))
    first = re.split(r"[—–:;.,!?(]| - ", plain)[0].strip()
    bracket = re.search(r"\((an? [^,)]*)", plain)
    names = [first] + ([bracket[1].strip()] if bracket else [])
    lowered = [re.sub(r"^(An?|The|Two|Three|Some|Our|One)\b", lower_match, n) for n in names]
    return tuple(lowered) if 0 < len(first.split()) <= LONGEST_NAME else ()


def lower_match(match: re.Match[str]) -> str:
    """For re.sub."""
    return match[0].lower()


def deal_folds(stamps: Sequence[Stamp], rng: np.random.Generator) -> dict[str, int]:
    """The fold of each noun: whole nouns are dealt, so that each fold has its share of each
    category as nearly as may be."""
    groups: dict[str, list[Stamp]] = defaultdict(list)
    for stamp in stamps:
        groups[stamp.noun].append(stamp)
    sizes = Counter(stamp.category for stamp in stamps)
    taken = [Counter[str]() for _ in range(FOLDS)]
    nouns = sorted(groups)
    folds = {}
    for position in rng.permutation(len(nouns)):
        wanted = Counter(stamp.category for stamp in groups[nouns[position]])
        fullness = [
            sum(count * dealt[category] / sizes[category] for category, count in wanted.items())
            for dealt in taken
        ]
        # the emptiest for these categories; of several the emptiest of all
        fold = min(range(FOLDS), key=lambda i: (fullness[i], taken[i].total()))
        taken[fold].update(wanted)
        folds[nouns[position]] = fold
    return folds


def twins(stamps: Sequence[Stamp]) -> set[str]:
    """Keys of all but the first stamp of a caption: as test videos they would be right answers of
    each other."""
    seen: set[str] = set()
    found = set()
    for stamp in stamps:
        caption = stamp.names[0].lower()
        if caption in seen:
            found.add(stamp.key)
        seen.add(caption)
    return found


# Pictures


def render_frames(stamp: Stamp, count: int, rng: np.random.Generator) -> bytes:
    """RGB frames: the stamp on a straight path, turning and scaling, over a drifting photograph."""
    ground, picture = draw_background(rng), load_picture(stamp.picture)
    size = rng.uniform(*SIZE, 2) * HEIGHT
    angle = rng.uniform(-25, 25, 2)
    path = np.stack([rng.uniform(*ACROSS, 2) * WIDTH, rng.uniform(0.4, 0.6, 2) * HEIGHT])
    drift = rng.uniform(0, [[ground.width - WIDTH], [ground.height - HEIGHT]], (2, 2))
    frames = []
    for progress in np.linspace(0, 1, count):
        weights = np.array([1 - progress, progress])
        x, y = drift @ weights
        frame = ground.crop((int(x), int(y), int(x) + WIDTH, int(y) + HEIGHT))
        scale = float(size @ weights) / max(picture.size)
        shape = [max(1, round(scale * side)) for side in picture.size]
        moved = picture.resize((shape[0], shape[1]), Image.Resampling.BILINEAR)
        moved = moved.rotate(float(angle @ weights), Image.Resampling.BILINEAR, expand=True)
        x, y = path @ weights
        frame.paste(moved, (round(x - moved.width / 2), round(y - moved.height / 2)), moved)
        frames.append(frame.tobytes())
    return b"".join(frames)


def draw_background(rng: np.random.Generator) -> Image.Image:
    """A photograph somewhat larger than the frame, at random size, slightly out of focus."""
    with files("skimage").joinpath("data", str(rng.choice(PHOTOGRAPHS))).open("rb") as stream:
        photo = Image.open(stream).convert("RGB")
    scale = max(WIDTH / photo.width, HEIGHT / photo.height) * rng.uniform(1.15, 1.8)
    larger = photo.resize((math.ceil(scale * photo.width), math.ceil(scale * photo.height)))
    return larger.filter(ImageFilter.GaussianBlur(1))


def load_picture(path: Path) -> Image.Image:
    """The stamp with its transparency, cut to what can be seen of it, at most 240 pixels."""
    picture = Image.open(path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail((240, 240))
    return picture


# Sound


def speak(text: str, voice: str) -> Samples:
    """The sentence in a Flite voice, without the silence around it, at SPEECH_LEVEL."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "speech.wav")
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", wav], check=True)
        rate, pcm = wavfile.read(wav)
    assert rate == SAMPLE_RATE, f"flite's voice {voice} speaks at {rate} Hz"
    heard = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 300)
    return at_level(pcm[heard[0] : heard[-1] + 1] / 32768.0, SPEECH_LEVEL)


def load_effect(path: Path) -> Samples:
    """The beginning of a sound effect in mono at SAMPLE_RATE, at EFFECT_LEVEL, faded out."""
    sound, rate = soundfile.read(path, always_2d=True)
    mono = resample_poly(sound.mean(axis=1), SAMPLE_RATE, rate)[: round(EFFECT * SAMPLE_RATE)]
    fade = min(len(mono), SAMPLE_RATE // 20)
    mono[len(mono) - fade :] *= np.linspace(1, 0, fade)
    return at_level(mono, EFFECT_LEVEL)


def at_level(sound: Samples, level: float) -> Samples:
    """The sound scaled to a root mean square of `level` dBFS, clipped at full scale."""
    rms = math.sqrt(float(np.mean(sound**2))) or 1.0
    return np.clip(sound * 10 ** (level / 20) / rms, -0.98, 0.98)


def sound_track(stamp: Stamp, sentence: str, voice: str, rng: np.random.Generator) -> Samples:
    """The sentence, then the stamp's effect if it has one, over faint noise; whole frames long."""
    parts = [np.zeros(round(LEAD * SAMPLE_RATE)), speak(sentence, voice)]
    if stamp.effect is not None:
        parts += [np.zeros(round(GAP * SAMPLE_RATE)), load_effect(stamp.effect)]
    heard = np.concatenate([*parts, np.zeros(round(TAIL * SAMPLE_RATE))])
    frames = math.ceil(max(SHORTEST, len(heard) / SAMPLE_RATE) * FPS)
    sound = rng.standard_normal(frames * SAMPLE_RATE // FPS) * 10 ** (NOISE_LEVEL / 20)
    sound[: len(heard)] += heard
    return sound


# Files


def make_video(stamp: Stamp, key: str, folder: Path, seed: int, number: int) -> None:
    """Writes KEY.mp4 and KEY.srt of video `number`."""
    rng = np.random.default_rng((seed, number))
    name = stamp.names[int(rng.integers(len(stamp.names)))]
    spoken = str(rng.choice(SENTENCES))
    sound = sound_track(stamp, spoken.format(name=name), str(rng.choice(VOICES)), rng)
    frames = render_frames(stamp, len(sound) * FPS // SAMPLE_RATE, rng)
    encode(folder / f"{key}.mp4", frames, sound)
    written = write_sentence(spoken, name, np.random.default_rng((seed, number, 1)))
    seconds = len(sound) / SAMPLE_RATE
    cue = f"1\n00:00:00,000 --> 00:00:{seconds:06.3f}\n{written}\n".replace(".", ",", 1)
    (folder / f"{key}.srt").write_text(cue, encoding="utf-8")


def write_sentence(spoken: str, name: str, rng: np.random.Generator) -> str:
    """The caption: another sentence than the spoken one, or text and sound would be matched by
    their sentence, which training finds sooner than the object."""
    others = [sentence for sentence in SENTENCES if sentence != spoken]
    return str(rng.choice(others)).format(name=name)


def encode(target: Path, frames: bytes, sound: Samples) -> None:
    """H.264 and AAC in mp4, without dates or versions."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "sound.wav")
        pcm = np.round(np.clip(sound, -0.99, 0.99) * 32767).astype(np.int16)
        wavfile.write(wav, SAMPLE_RATE, pcm)
        command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "pipe:", "-i", str(wav)]
        command += [*ENCODE.split(), *BITEXACT.split(), str(target)]
        subprocess.run(command, input=frames, check=True)


def write_fold(path: Path, takes: Sequence[tuple[Stamp, str]], test: set[str]) -> None:
    """What `pipeline run extract --input` reads: the first video of each stamp of `test` is the
    test set; its other ones, and twins, are `unused`."""
    doubled = twins([stamp for stamp, key in takes if key.endswith("-0") and stamp.key in test])
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "key", "label", "split", "captions"])
        for stamp, key in takes:
            tested = key.endswith("-0") and stamp.key not in doubled
            split = "train" if stamp.key not in test else "test" if tested else "unused"
            video, captions = f"videos/{key}.mp4", f"videos/{key}.srt"
            writer.writerow([video, key, stamp.category, split, captions])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stamps", type=Path, required=True, help="tuxpaint's folder of stamps")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--takes", type=int, default=4, help="videos of a stamp")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    stamps = find_stamps(arguments.stamps)
    if not stamps:
        raise SystemExit(
            f"{arguments.stamps}: no captioned stamps; install tuxpaint-stamps-default"
        )
    takes = [(stamp, f"{stamp.key}-{take}") for stamp in stamps for take in range(arguments.takes)]
    folder = arguments.output / "videos"
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.workers) as pool:
        stamp_keys, numbers = zip(*takes, strict=True), range(len(takes))
        jobs = (*stamp_keys, repeat(folder), repeat(arguments.seed), numbers)
        for done, _ in enumerate(pool.map(make_video, *jobs, chunksize=4), start=1):
            if done % 50 == 0:
                print(f"{done}/{len(takes)} videos", flush=True)
    folds = deal_folds(stamps, np.random.default_rng((arguments.seed, len(stamps))))
    for fold in range(FOLDS):
        test = {stamp.key for stamp in stamps if folds[stamp.noun] == fold}
        write_fold(arguments.output / f"fold{fold}.csv", takes, test)
        print(f"fold {fold}: {len(test)} stamps to test")
    categories = len({stamp.category for stamp in stamps})
    print(f"{len(takes)} videos of {len(stamps)} stamps in {categories} categories")


if __name__ == "__main__":
    main()
