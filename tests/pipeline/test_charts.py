import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.charts import (
    CARD,
    INK,
    LINE,
    SERIES,
    SOFT,
    Chart,
    bars,
    group_colour,
    histogram,
    lines,
    luminance,
    number_text,
    scatter,
)

HOSTILE = '<script>alert(1)</script> $x^2$ & "q"'


def tree(chart: Chart) -> ElementTree.Element:
    """Parses strictly."""
    return ElementTree.fromstring(chart.svg)


def words(chart: Chart) -> list[str]:
    return ["".join(node.itertext()).strip() for node in tree(chart).iter("text")]


def every_kind() -> list[Chart]:
    return [
        bars("bars", {"a": 3, "b": 1}, "videos"),
        histogram("histogram", [1.0, 2.5, 3.0], "seconds", "videos"),
        lines("lines", {"a": ([1, 2], [0.5, 0.25]), "b": ([1, 2], [1, 2])}, "step"),
        scatter("scatter", [0, 1, 1], [0, 1, 0], [0, 1, -1], ["1", "2"]),
    ]


@pytest.mark.parametrize("chart", every_kind(), ids=lambda chart: chart.title)
def test_a_plot_is_plain_svg_in_the_pages_colours(chart: Chart) -> None:
    root = tree(chart)
    assert root.tag == "svg"
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert not list(root.iter("style"))
    assert not re.findall(r'href="(?!#)', chart.svg)
    for stand_in in (INK, SOFT, LINE, CARD):
        assert stand_in not in chart.svg
    assert "var(--" in chart.svg
    assert chart.summary.startswith(chart.title)


def test_plots_of_one_page_share_no_ids_and_their_references_hold() -> None:
    pages = every_kind()
    ids = [name for chart in pages for name in re.findall(r' id="([^"]+)"', chart.svg)]
    assert len(ids) == len(set(ids))
    wanted = {n for c in pages for n in re.findall(r'(?:url\(|href=")#([^")]+)', c.svg)}
    assert wanted <= set(ids)


def test_the_same_plot_is_the_same_bytes() -> None:
    assert [one.svg for one in every_kind()] == [one.svg for one in every_kind()]


def test_hostile_names_stay_words() -> None:
    for chart in (
        bars(HOSTILE, {HOSTILE[:20]: 1.0}, HOSTILE),
        lines(HOSTILE, {HOSTILE[:20]: ([0, 1], [1.0, 2.0]), "$$": ([0], [1.0])}, HOSTILE),
    ):
        assert not list(tree(chart).iter("script"))
        assert HOSTILE[:20] in words(chart)


def test_bars_are_as_long_as_their_numbers() -> None:
    chart = bars("b", {"one": 10, "other": 5, "none": 0}, "videos")
    assert words(chart)[:3] == ["one", "other", "none"]
    assert words(chart)[3:] == ["10", "5", "0"]
    drawn = [node for node in tree(chart).iter("path") if SERIES[0] in node.get("style", "")]
    widths = []
    for node in drawn:
        across = [float(x) for x in re.findall(r"[ML] (-?[\d.]+) ", node.get("d", ""))]
        widths.append(max(across) - min(across))
    # coordinates have six digits
    assert widths == pytest.approx([2 * widths[1], widths[1], 0], abs=1e-4)
    assert widths[1] > 50
    assert chart.rows == (("one", "10"), ("other", "5"), ("none", "0"))
    assert "longest one with 10" in chart.summary


def test_names_in_any_script_are_kept() -> None:
    assert "料理 और घर" in words(bars("label", {"料理 और घर": 1.0}, "videos"))


def test_bars_without_any() -> None:
    assert bars("nothing", {}, "videos").rows == ()


def test_a_histogram_of_few_whole_numbers_has_a_bar_each() -> None:
    chart = histogram("h", [0, 1, 1, 2, 2, 2], "segments", "videos")
    assert {"0", "1", "2"} <= set(words(chart))
    assert "median 1.5" in chart.summary


def test_a_histogram_is_not_flattened_by_one_long_video() -> None:
    values = np.concatenate([np.linspace(1, 10, 999), [10_000]])
    assert "10,000" not in words(histogram("h", values, "seconds", "videos"))


def test_lines_are_logarithmic_over_two_decades() -> None:
    assert "logarithmic" in lines("l", {"a": ([1, 2], [1000.0, 1.0])}, "step").summary
    assert "logarithmic" not in lines("l", {"a": ([1, 2], [10.0, 1.0])}, "step").summary
    assert "logarithmic" not in lines("l", {"a": ([1, 2], [1000.0, -1.0])}, "step").summary


def test_a_line_with_holes_is_drawn() -> None:
    chart = lines("l", {"a": ([1, 2, 3], [1.0, float("nan"), 3.0])}, "step")
    assert chart.rows == (("a", "1", "3"),)


@pytest.mark.parametrize("number", range(24))
def test_groups_stand_out_on_white_and_on_dark(number: int) -> None:
    colour = group_colour(number)
    own = luminance(*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)))
    assert 1.05 / (own + 0.05) > 2.7
    dark = luminance(0x1D / 255, 0x20 / 255, 0x24 / 255)
    assert (own + 0.05) / (dark + 0.05) > 2.7
    assert len({group_colour(other) for other in range(24)}) == 24


def test_series_differ() -> None:
    assert len(set(SERIES)) == len(SERIES)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1,234,567"), (1234.5, "1,234"), (0.12345, "0.123"), (12.345, "12.35"),
     (float("nan"), "–")],
)  # fmt: skip
def test_number_text(value: float, text: str) -> None:
    assert number_text(value) == text
