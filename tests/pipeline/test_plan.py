from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import DamagedError
from pipeline.config import ExtractConfig
from pipeline.plan import PlannedVideo, PlanUpdate, extend_plan, read_plan, write_plan
from pipeline.sources import SourceVideo


def video(name: str, mb: float | None = None) -> SourceVideo:
    size = None if mb is None else int(mb * 2**20)
    return SourceVideo(name, f"/videos/{name}.mp4", f"{name}.mp4", size, None, "label", "train")


def extended(
    plan: list[PlannedVideo], videos: Iterable[SourceVideo], config: ExtractConfig
) -> list[PlannedVideo]:
    return extend_plan(plan, videos, config).plan


def shards(plan: list[PlannedVideo]) -> list[list[str]]:
    found: dict[int, list[str]] = {}
    for planned in plan:
        found.setdefault(planned.shard, []).append(planned.video.key)
    assert list(found) == list(range(len(found)))
    return list(found.values())


def test_shards_are_filled_in_order() -> None:
    plan = extended([], [video(name) for name in "abcde"], ExtractConfig(videos_per_shard=2))
    assert shards(plan) == [["a", "b"], ["c", "d"], ["e"]]


def test_both_bounds_hold_and_a_video_larger_than_one_has_a_shard_of_its_own() -> None:
    config = ExtractConfig(videos_per_shard=3, source_mb_per_shard=10)
    sizes = {"a": 4, "b": 6, "c": 1, "d": 30, "e": 1, "f": 1, "g": 1, "h": 1}
    plan = extended([], [video(name, mb) for name, mb in sizes.items()], config)
    assert shards(plan) == [["a", "b"], ["c"], ["d"], ["e", "f", "g"], ["h"]]


def test_videos_of_unknown_size_are_bound_by_number_alone() -> None:
    config = ExtractConfig(videos_per_shard=2, source_mb_per_shard=0.001)
    assert shards(extended([], [video(n) for n in "abc"], config)) == [["a", "b"], ["c"]]


def test_new_videos_go_to_new_shards_wherever_they_sort() -> None:
    config = ExtractConfig(videos_per_shard=2)
    old = extended([], [video(name) for name in "bdf"], config)
    new = extended(old, [video(name) for name in "abcdef"], config)
    assert new[: len(old)] == old
    assert shards(new) == [["b", "d"], ["f"], ["a", "c"], ["e"]]


def test_a_plan_extended_by_what_it_holds_is_the_same_plan() -> None:
    config = ExtractConfig(videos_per_shard=2)
    videos = [video(name) for name in "abc"]
    plan = extended([], videos, config)
    assert extended(plan, videos, config) == plan
    assert extended(plan, reversed(videos), config) == plan
    assert extended(plan, videos, ExtractConfig(videos_per_shard=1)) == plan


def test_videos_that_are_gone_stay_and_known_ones_are_renewed() -> None:
    config = ExtractConfig(videos_per_shard=2)
    plan = extended([], [video(name) for name in "abc"], config)
    moved = video("b")._replace(uri="/elsewhere/b.mp4", label="other")
    new = extended(plan, [moved], config)
    assert shards(new) == shards(plan)
    assert [planned.video for planned in new] == [video("a"), moved, video("c")]


def test_growth_in_any_steps_never_moves_a_video() -> None:
    rng = np.random.default_rng((1, 2, 3))
    names = [f"v{number:03d}" for number in rng.permutation(60)]
    config = ExtractConfig(videos_per_shard=4)
    plan: list[PlannedVideo] = []
    for end in (7, 8, 30, 60):
        before = {planned.video.key: planned.shard for planned in plan}
        plan = extended(plan, sorted((video(n) for n in names[:end]), key=lambda v: v.key), config)
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


def test_a_plan_that_lacks_a_column_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "shard": [0]}), tmp_path / "plan.parquet")
    with pytest.raises(DamagedError, match=r"plan.parquet: lacks captions, label, .*, version"):
        read_plan(str(tmp_path))


def stamped(name: str, version: str) -> SourceVideo:
    return video(name)._replace(version=version)


def test_what_the_source_no_longer_lists_is_said_and_pruned_when_asked() -> None:
    config = ExtractConfig(videos_per_shard=2)
    plan = extended([], [video(name) for name in "abc"], config)
    update = extend_plan(plan, [video("a"), video("d")], config)
    assert (update.unlisted, update.added, update.renamed) == (("b", "c"), 1, {})
    assert shards(update.plan) == [["a", "b"], ["c"], ["d"]]
    pruned = extend_plan(plan, [video("a"), video("d")], config, prune=True)
    assert [(p.video.key, p.shard) for p in pruned.plan] == [("a", 0), ("d", 2)]


def test_only_a_plan_that_is_another_counts_as_changed() -> None:
    config = ExtractConfig(videos_per_shard=2)
    plan = extended([], [stamped(name, f"12-{name}") for name in "abc"], config)
    same = [stamped(name, f"12-{name}") for name in "abc"]
    assert not extend_plan(plan, same, config).changed
    assert not extend_plan(plan, same[:2], config).changed  # c is kept
    assert extend_plan(plan, [*same[:2], stamped("c", "13-c")], config).changed


def test_a_renamed_video_keeps_its_place() -> None:
    config = ExtractConfig(videos_per_shard=2)
    plan = extended([], [stamped(name, f"12-{name}") for name in "abc"], config)
    listed = [stamped("a", "12-a"), stamped("new", "12-b"), stamped("c", "12-c")]
    for prune in (False, True):
        update = extend_plan(plan, listed, config, prune=prune)
        assert update == PlanUpdate(update.plan, 0, (), {"b": "new"}, changed=True)
        assert shards(update.plan) == [["a", "new"], ["c"]]


def test_two_that_look_alike_are_not_taken_for_a_rename() -> None:
    config = ExtractConfig(videos_per_shard=2)
    plan = extended([], [stamped("a", "12-x"), stamped("b", "12-x")], config)
    update = extend_plan(plan, [stamped("c", "12-x"), stamped("d", "12-x")], config)
    assert (update.renamed, update.unlisted, update.added) == ({}, ("a", "b"), 2)
    unversioned = extend_plan([PlannedVideo(video("a"), 0)], [video("b")], config)
    assert unversioned.renamed == {}
