"""Speech recognition on the narration of the demo corpus."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors import speech as speech_module
from extractors.config import SpeechConfig
from extractors.errors import UsageError
from extractors.speech import RATE, SpeechRecogniser, registry_or_path
from extractors.views import SoundView
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
