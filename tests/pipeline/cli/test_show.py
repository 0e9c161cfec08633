import pytest

from pipeline.cli import show


@pytest.mark.parametrize("text", ["a[b]", "a\\[b", "\\", "x\\[/red]", "[/]", "[bold]\\"])
def test_names_are_shown_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show.error(text)
    show.note(text)
    show.table("names", ["name"], [[text]])
    with show.progress("walk", 1, "steps") as bar:
        bar.advance(1, text)
    captured = capsys.readouterr()
    assert captured.err.splitlines()[:2] == [f"error: {text}", text]
    assert text in captured.out


def test_count() -> None:
    assert [show.count(number, "video") for number in (0, 1, 2)] == [
        "0 videos",
        "1 video",
        "2 videos",
    ]
