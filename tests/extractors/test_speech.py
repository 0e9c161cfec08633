"""Speech recognition on the narration of the demo corpus."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors import speech as speech_module
from extractors.errors import UsageError
from extractors.speech import RATE, SpeechRecogniser, registry_or_path, without_repeats
from extractors.speech_config import SpeechConfig
from extractors.tracks import Segment
from extractors.views import SoundView
from extractors.weights import locate
from extractors.windows import Window, WindowCutter

CORPUS = Path(__file__).parents[2] / "pipeline" / "demo_corpus"


@pytest.fixture(scope="module")
def recogniser():
    recogniser = SpeechRecogniser(SpeechConfig())
    recogniser.setup(torch.device("cpu"))
    yield recogniser
    recogniser.close()


@pytest.fixture(scope="module")
def narrated():
    """(path, sentences) of the first videos that someone speaks in."""
    with (CORPUS / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["sentences"]]
    return [(CORPUS / row["path"], row["sentences"]) for row in rows[:4]]


def recognise(recogniser, samples):
    cutter = WindowCutter(recogniser.windowing)
    windows = [*cutter.push(samples), *cutter.finish()]
    return [segment for number, window in enumerate(windows)
            for segment in recogniser.recognise(window, number)]  # fmt: skip


def words(text):
    return set(re.findall(r"[a-z]+", text.lower()))


def test_narration_is_recognised(recogniser, narrated, decode_all):
    found_words = num_words = 0
    for path, sentences in narrated:
        sound = decode_all(str(path), SoundView(RATE))
        segments = recognise(recogniser, sound.views[SoundView(RATE)])
        assert segments, path
        spoken = words(" ".join(segment.text for segment in segments))
        found_words += len(words(sentences) & spoken)
        num_words += len(words(sentences))
        starts = [segment.start for segment in segments]
        assert starts == sorted(starts)
        for segment in segments:
            assert 0 <= segment.start < segment.end <= sound.decoded.duration + 1e-3
            assert segment.source == "asr"
    assert found_words / num_words > 0.6  # a small recogniser of a synthetic voice


def test_the_same_sound_gives_the_same_text(recogniser, narrated, decode_all):
    samples = decode_all(str(narrated[0][0]), SoundView(RATE)).views[SoundView(RATE)]
    assert recognise(recogniser, samples) == recognise(recogniser, samples)


@pytest.mark.parametrize("level", [0, 30], ids=["silence", "faint noise"])
def test_silence_gives_no_segment(recogniser, level):
    noise = np.random.default_rng(0).normal(size=5 * RATE) * level
    assert recognise(recogniser, noise.astype(np.int16)) == []


def test_a_later_piece_keeps_its_time(recogniser, narrated, decode_all):
    samples = decode_all(str(narrated[0][0]), SoundView(RATE)).views[SoundView(RATE)]
    first = recogniser.recognise(Window(samples, len(samples)), 0)
    third = recogniser.recognise(Window(samples, len(samples)), 2)
    offset = 2 * speech_module.PIECE_SECONDS
    assert [(s.start + offset, s.end + offset, s.text) for s in first] == [
        (pytest.approx(s.start), pytest.approx(s.end), s.text) for s in third
    ]


def test_names_and_paths():
    assert registry_or_path("tiny.en") == ("tiny.en", None)
    assert registry_or_path("/models/large") == ("/models/large", "/models/large")


def test_a_missing_local_model():
    with pytest.raises(UsageError, match=r"speech\.model = /nowhere/model: no such file"):
        SpeechRecogniser(SpeechConfig(model="/nowhere/model")).setup(torch.device("cpu"))


@pytest.fixture(scope="module")
def samples(narrated, decode_all):
    """The sound of one narrated video, int16 at 16 kHz."""
    return decode_all(str(narrated[0][0]), SoundView(RATE)).views[SoundView(RATE)]


def recogniser_with(**settings):
    recogniser = SpeechRecogniser(SpeechConfig(**settings))
    recogniser.setup(torch.device("cpu"))
    return recogniser


@pytest.mark.parametrize("batch_size", [None, 4])
def test_the_same_as_faster_whisper_itself(samples, batch_size):
    """Golden: the library called on the same samples, with its own guards off as ours are."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(locate("tiny.en", None, "")), device="cpu", compute_type="int8",
                         cpu_threads=1)  # fmt: skip
    options = {"language": "en", "beam_size": 1, "temperature": 0.0, "vad_filter": True,
               "condition_on_previous_text": False, "word_timestamps": True,
               "log_prob_threshold": None, "no_speech_threshold": None,
               "compression_ratio_threshold": None}  # fmt: skip
    if batch_size:
        model = BatchedInferencePipeline(model)
        options |= {"batch_size": batch_size, "without_timestamps": False}
    found, _ = model.transcribe(samples.astype(np.float32) / 32768, **options)
    expected = list(found)
    ours = recogniser_with(
        batch_size=batch_size, word_times=True, max_no_speech=1.0, max_compression=None,
        min_log_probability=None, max_repeats=None,
    ).hear(Window(samples, len(samples)), 0)  # fmt: skip
    end = len(samples) / RATE
    assert len(expected) > 0
    assert [(s.start, s.end, s.text) for s in ours.segments] == [
        (pytest.approx(e.start, abs=5e-4), pytest.approx(min(e.end, end), abs=5e-4), e.text.strip())
        for e in expected
    ]
    assert [(w.start, w.text) for s in ours.segments for w in s.words] == [
        (pytest.approx(w.start, abs=5e-4), w.word.strip())
        for e in expected for w in e.words if min(w.end, end) > w.start
    ]  # fmt: skip
    assert (ours.language, ours.language_probability) == ("en", 1.0)


def test_words_lie_in_their_segments(samples):
    for segment in recogniser_with(word_times=True).recognise(Window(samples, len(samples)), 1):
        assert " ".join(word.text for word in segment.words) == segment.text
        assert all(w.start < w.end for w in segment.words)
        starts = [word.start for word in segment.words]
        assert starts == sorted(starts)
        assert segment.start - 1e-3 <= starts[0]
        assert segment.words[-1].end <= segment.end + 1e-3


def test_no_words_where_none_are_asked_for(recogniser, samples):
    assert all(s.words == () for s in recogniser.recognise(Window(samples, len(samples)), 0))


def test_silence_has_a_language_too():
    """Nothing is left for the recogniser after voice activity detection."""
    silence = Window(np.zeros(3 * RATE, np.int16), 3 * RATE)
    for batch_size in (None, 2):
        heard = recogniser_with(language=None, batch_size=batch_size).hear(silence, 0)
        assert (heard.segments, heard.language) == ([], "en")


@pytest.mark.parametrize("guard", [
    {"max_no_speech": 1e-9}, {"max_compression": 0.01}, {"min_log_probability": -1e-9},
])  # fmt: skip
def test_each_guard_drops_what_is_beyond_it(samples, guard):
    window = Window(samples, len(samples))
    assert recogniser_with(**guard).recognise(window, 0) == []


def test_what_is_repeated_is_kept_a_few_times():
    said = [Segment(i, i + 1, text, "asr") for i, text in enumerate("abBbbaa")]

    def kept(most):
        return [int(segment.start) for segment in without_repeats(said, most)]

    assert kept(None) == [0, 1, 2, 3, 4, 5, 6]
    assert kept(2) == [0, 1, 2, 5, 6]
    assert kept(1) == [0, 1, 5]


@pytest.mark.skipif(shutil.which("flite") is None, reason="no flite on PATH")
def test_a_voice_is_heard_when_it_speaks(media, recogniser, decode_all):
    """A sentence that starts 4 s into the sound."""
    voice, placed = media.path("voice.wav"), media.path("voice_at_4.wav")
    subprocess.run(["flite", "-voice", "slt", "-t", "Cut the red onion into very thin slices.",
                    "-o", str(voice)], check=True, timeout=30)  # fmt: skip
    media.run("-i", voice, "-af", "adelay=4000,apad=pad_dur=2", "-ar", RATE, placed)
    samples = decode_all(str(placed), SoundView(RATE)).views[SoundView(RATE)]
    (segment,) = recognise(recogniser, samples)
    assert len({"cut", "red", "onion", "thin", "slices"} & words(segment.text)) >= 4
    assert segment.start == pytest.approx(4.0, abs=0.6)  # voice activity is padded by 0.4 s
    assert segment.end < len(samples) / RATE - 1
