from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import ExtractConfig
from pipeline.plan import PlannedVideo, extend_plan, read_plan, write_plan
from pipeline.sources import SourceVideo


def video(name: str, mb: float | None = None) -> SourceVideo:
    size = None if mb is None else int(mb * 2**20)
    return SourceVideo(name, f"/videos/{name}.mp4", f"{name}.mp4", size, None, "label", "train")


def shards(plan: list[PlannedVideo]) -> list[list[str]]:
    found: dict[int, list[str]] = {}
    for planned in plan:
        found.setdefault(planned.shard, []).append(planned.video.key)
    assert list(found) == list(range(len(found)))
    return list(found.values())


def test_shards_are_filled_in_order() -> None:
    plan = extend_plan([], [video(name) for name in "abcde"], ExtractConfig(videos_per_shard=2))
    assert shards(plan) == [["a", "b"], ["c", "d"], ["e"]]


def test_both_bounds_hold_and_a_video_larger_than_one_has_a_shard_of_its_own() -> None:
    config = ExtractConfig(videos_per_shard=3, source_mb_per_shard=10)
    sizes = {"a": 4, "b": 6, "c": 1, "d": 30, "e": 1, "f": 1, "g": 1, "h": 1}
    plan = extend_plan([], [video(name, mb) for name, mb in sizes.items()], config)
    assert shards(plan) == [["a", "b"], ["c"], ["d"], ["e", "f", "g"], ["h"]]


def test_videos_of_unknown_size_are_bound_by_number_alone() -> None:
    config = ExtractConfig(videos_per_shard=2, source_mb_per_shard=0.001)
    assert shards(extend_plan([], [video(n) for n in "abc"], config)) == [["a", "b"], ["c"]]


def test_new_videos_go_to_new_shards_wherever_they_sort() -> None:
    config = ExtractConfig(videos_per_shard=2)
    old = extend_plan([], [video(name) for name in "bdf"], config)
    new = extend_plan(old, [video(name) for name in "abcdef"], config)
    assert new[: len(old)] == old
    assert shards(new) == [["b", "d"], ["f"], ["a", "c"], ["e"]]


def test_a_plan_extended_by_what_it_holds_is_the_same_plan() -> None:
    config = ExtractConfig(videos_per_shard=2)
    videos = [video(name) for name in "abc"]
    plan = extend_plan([], videos, config)
    assert extend_plan(plan, videos, config) == plan
    assert extend_plan(plan, reversed(videos), config) == plan
    assert extend_plan(plan, videos, ExtractConfig(videos_per_shard=1)) == plan


def test_videos_that_are_gone_stay_and_known_ones_are_renewed() -> None:
    config = ExtractConfig(videos_per_shard=2)
    plan = extend_plan([], [video(name) for name in "abc"], config)
    moved = replace(video("b"), uri="/elsewhere/b.mp4", label="other")
    new = extend_plan(plan, [moved], config)
    assert shards(new) == shards(plan)
    assert [planned.video for planned in new] == [video("a"), moved, video("c")]


def test_growth_in_any_steps_never_moves_a_video() -> None:
    rng = np.random.default_rng((1, 2, 3))
    names = [f"v{number:03d}" for number in rng.permutation(60)]
    config = ExtractConfig(videos_per_shard=4)
    plan: list[PlannedVideo] = []
    for end in (7, 8, 30, 60):
        before = {planned.video.key: planned.shard for planned in plan}
        plan = extend_plan(
            plan, sorted((video(n) for n in names[:end]), key=lambda v: v.key), config
        )
        after = {planned.video.key: planned.shard for planned in plan}
        assert before.items() <= after.items()
        assert len(plan) == end
        assert max(len(shard) for shard in shards(plan)) <= 4


@pytest.mark.parametrize("base", ["{}", "memory://plan{}"])
def test_what_is_written_is_read(tmp_path: Path, base: str) -> None:
    dataset = base.format(tmp_path)
    assert read_plan(dataset) == []
    plan = [
        PlannedVideo(SourceVideo("a", "/v/é\n.mp4", "é\n.mp4", 12, "/v/a.srt", "l", "test"), 0),
        PlannedVideo(video("b"), 3),
    ]
    write_plan(dataset, plan)
    assert read_plan(dataset) == plan
