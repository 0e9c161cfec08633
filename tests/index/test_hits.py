from index.hits import Hit, merge_overlapping


def hit(rank: int, video: str, start: float, end: float, text: str | None = None) -> Hit:
    key = f"{video}@{start:.3f}-{end:.3f}"
    return Hit(rank, key, video, f"/{video}.mp4", start, end, 1 / rank, text)


def test_overlapping_hits_of_one_video_become_one() -> None:
    hits = [
        hit(1, "a", 10, 20, "two"),
        hit(2, "b", 12, 18),
        hit(3, "a", 5, 12, "one"),
        hit(4, "a", 18, 30, "three"),
        hit(5, "a", 40, 50),
    ]
    first, second, third = merge_overlapping(hits)
    assert (first.rank, first.video, first.start, first.end) == (1, "a", 5, 30)
    assert (first.id, first.score, first.text) == ("a@5.000-30.000", 1.0, "one two three")
    assert (second.rank, second.id) == (2, "b@12.000-18.000")
    assert (third.rank, third.id) == (3, "a@40.000-50.000")


def test_a_hit_inside_another_adds_nothing_but_its_score() -> None:
    (merged,) = merge_overlapping([hit(1, "a", 3, 4, "word"), hit(2, "a", 0, 10, "word")])
    assert (merged.start, merged.end, merged.score, merged.text) == (0, 10, 1.0, "word")


def test_hits_that_only_touch_stay_apart() -> None:
    hits = [hit(1, "a", 0, 5), hit(2, "a", 5, 10)]
    assert merge_overlapping(hits) == hits


def test_nothing_gives_nothing() -> None:
    assert merge_overlapping([]) == []
