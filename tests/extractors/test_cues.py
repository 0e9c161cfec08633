"""Cues to segments: mark-up, repeats, doubles, what pysubs2 leaves in."""

import pytest

from extractors.cues import Cue, parse_captions, plain, segments_of, within, without_rolling
from extractors.tracks import Segment

# as YouTube serves automatic captions: each line in three cues, one of 10 ms, timing tags inside
YOUTUBE = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.310 align:start position:0%
 
cut<00:00:00.480><c> the</c><00:00:00.800><c> onion</c>

00:00:02.310 --> 00:00:02.320 align:start position:0%
cut the onion
 

00:00:02.320 --> 00:00:04.070 align:start position:0%
cut the onion
and<00:00:02.600><c> don&#39;t</c><00:00:03.000><c> cry</c>

00:00:04.070 --> 00:00:04.080 align:start position:0%
and don&#39;t cry
 

00:00:04.080 --> 00:00:07.000 align:start position:0%
and don&#39;t cry
[Music]
"""


def test_rolling_captions_of_youtube_say_each_line_once():
    assert parse_captions(YOUTUBE, "a.vtt") == [
        Segment(0.16, 2.31, "cut the onion", "captions"),
        Segment(2.32, 4.07, "and don't cry", "captions"),
        Segment(4.08, 7.0, "[Music]", "captions"),
    ]


def as_srt(cues):
    def stamp(seconds):
        return f"00:00:{int(seconds):02d},{round(seconds % 1 * 1000):03d}"

    return "".join(
        f"{number}\n{stamp(cue.start)} --> {stamp(cue.end)}\n" + "\n".join(cue.lines) + "\n\n"
        for number, cue in enumerate(cues, start=1)
    )


def test_rolling_captions_that_were_made_srt():
    """yt-dlp's --convert-subs keeps the repeats and drops the tags."""
    cues = [
        Cue(0.16, 2.31, ("one",)),
        Cue(2.31, 2.32, ("one",)),
        Cue(2.32, 4.07, ("one", "two")),
        Cue(4.07, 4.08, ("two",)),
        Cue(4.08, 5.0, ("two", "three")),
    ]
    found = parse_captions(as_srt(cues), "a.srt")
    assert [(s.start, s.text) for s in found] == [(0.16, "one"), (2.32, "two"), (4.08, "three")]


def test_three_lines_that_roll_up():
    lines = [f"line {i}" for i in range(8)]
    cues = [Cue(i, i + 1, tuple(lines[max(0, i - 2) : i + 1])) for i in range(8)]
    assert [cue.lines for cue in without_rolling(cues)] == [(line,) for line in lines]


def test_what_is_said_twice_stays_twice():
    cues = [Cue(i, i + 1, ("No!",)) for i in range(5)]
    assert without_rolling(cues) == cues
    apart = [Cue(0, 1, ("la", "la")), Cue(5, 6, ("la", "di")), Cue(9, 10, ("di", "da"))]
    assert without_rolling(apart) == apart  # no cue follows at once on another
    assert without_rolling([]) == []


def test_a_file_that_rolls_in_one_place_only_is_kept():
    cues = [Cue(i, i + 1, (f"line {i}", "x")) for i in range(10)]
    cues[5] = Cue(5, 6, ("x", "line 5"))
    assert without_rolling(cues) == cues


def test_cues_that_overlap_stay_and_doubles_go():
    cues = [Cue(0, 3, ("a",)), Cue(0, 3, ("a",)), Cue(2, 5, ("b",)), Cue(2, 6, ("b",))]
    assert [(s.start, s.end, s.text) for s in segments_of(cues)] == [
        (0, 3, "a"), (2, 5, "b"), (2, 6, "b")]  # fmt: skip


def test_unordered_empty_and_impossible_cues():
    text = (
        "1\n00:00:05,000 --> 00:00:06,000\nlater\n\n2\n00:00:01,000 --> 00:00:02,000\nearlier\n\n"
        "3\n00:00:03,000 --> 00:00:02,000\nbackwards\n\n4\n00:00:03,000 --> 00:00:04,000\n\u200b\n"
    )
    assert [s.text for s in parse_captions(text, "a.srt")] == ["earlier", "later"]


def test_names_of_cues_and_notes_of_webvtt_are_no_text():
    """pysubs2 takes them for the text of the cue before."""
    text = (
        "WEBVTT\n\nfirst\n00:01.000 --> 00:02.000\none\n\nNOTE --> aside\n\nNOTE\nof two\n\n"
        "second-cue\n00:02.000 --> 00:03.000\n<v Ann>two</v>\n\nREGION\nid:x\n"
    )
    assert [s.text for s in parse_captions(text, "a.vtt")] == ["one", "two"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_newlines_of_any_system(newline):
    text = "1\n00:00:01,000 --> 00:00:02,000\none\ntwo\n".replace("\n", newline)
    assert [s.text for s in parse_captions(text, "a.srt")] == ["one two"]


def test_a_drawing_is_no_text():
    text = (
        "[Script Info]\n[V4+ Styles]\n[Events]\n"
        "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\p1}m 0 0 l 10 10{\\p0}\n"
        "Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,{\\i1}a,{\\i0}\\hb\\Nc\n"
    )
    assert [s.text for s in parse_captions(text, "a.ass")] == ["a, b c"]


def test_entities_and_invisible_signs():
    assert plain("don&amp;#39;t\u200e\u00a0&gt;&gt; AT&amp;T") == "don't >> AT&T"


def test_what_lies_past_the_end_goes():
    segments = [Segment(0, 2, "a", "captions"), Segment(1, 5, "b", "captions"),
                Segment(3, 4, "c", "captions")]  # fmt: skip
    assert within(segments, 3.0) == [segments[0], Segment(1, 3.0, "b", "captions")]
    assert within(segments, None) == segments
