"""Writes the tables of docs/scale.md: what HowTo100M would take, from stated rates and settings.

Run `python docs/make_scale.py` after changing either; tests/docs/test_scale.py fails until then.
Text between the tables is written by hand.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from index.estimate import index_cost
from index.factory import byte_size
from pipeline.changes import StageCost
from pipeline.cli.estimate import Paper, paper
from pipeline.cli.options import load_config
from pipeline.estimate import STATED, Corpus, stage_names, stated_rate
from training.estimate import track_widths

TARGET = Path(__file__).parent / "scale.md"
PRESETS = ("embedded", "reference")
HOWTO100M = Corpus(videos=1_200_000, hours=134_000, segments=136_000_000)
SOURCE_BYTES = 264_000
"""A second of video: what the clip had on which the rates were measured (2.1 Mbit/s)."""
DAYS = 7
LARGE_BUDGET = 64 * 2**30
"""Bytes that knn.index may have, beside the default."""


def main() -> None:
    """Writes the tables, or with --check says whether they are up to date."""
    old = TARGET.read_text(encoding="utf-8")
    new = filled(old)
    if "--check" in sys.argv:
        sys.exit(0 if old == new else "docs/scale.md is old: run python docs/make_scale.py")
    TARGET.write_text(new, encoding="utf-8")


def filled(page: str) -> str:
    """The page with each table between its two marks made anew."""
    made = {preset: howto100m(preset) for preset in PRESETS}
    tables = {
        "work": work_table(made),
        "storage": storage_table(made),
        "totals": totals_table(made),
        "learning": learning_table(made),
        "index": index_table(made),
    }
    for name, lines in tables.items():
        before, mark, rest = page.partition(f"<!-- table {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise SystemExit(f"docs/scale.md: no place is marked for the table {name}")
        page = before + mark + "".join(f"{line}\n" for line in lines) + end + after
    return page


def howto100m(preset: str) -> Paper:
    """With all videos decoded, and speech recognised in all of them."""
    config = load_config(preset, None, None)
    extract = config.extract
    stages = [
        StageCost(stage, HOWTO100M.hours, stated_rate(stage, extract, HOWTO100M), STATED)
        for stage in stage_names(extract)
    ]
    return paper(
        config,
        HOWTO100M,
        stages,
        shards=math.ceil(HOWTO100M.videos / extract.videos_per_shard),
        source_bytes=3600 * HOWTO100M.hours * SOURCE_BYTES,
    )


def captioned(found: Paper) -> float:
    """Worker-hours where every video has captions, and no speech is recognised."""
    stages = tuple(stage for stage in found.extraction.stages if stage.stage != "speech")
    return replace(found.extraction, stages=stages).worker_hours


def work_table(made: dict[str, Paper]) -> list[str]:
    """Each stage of each preset."""
    rows = [
        (preset, stage.stage, f"{stage.rate:.4g}", f"{stage.worker_hours:,.0f}",
         f"{gflop:,.4g}" if (gflop := found.extraction.gflop.get(stage.stage)) else "not counted")
        for preset, found in made.items() for stage in found.extraction.stages
    ]  # fmt: skip
    columns = ("preset", "stage", "core-seconds a second of video", "core-hours",
               "GFLOP a second of video")  # fmt: skip
    return list(table(columns, rows))


def storage_table(made: dict[str, Paper]) -> list[str]:
    """Each member of each preset's shards."""
    rows = [
        (preset, size.member, f"{size.bytes / HOWTO100M.hours / 3600:,.4g}", byte_size(size.bytes),
         size.source)
        for preset, found in made.items() for size in found.extraction.sizes
    ]  # fmt: skip
    return list(
        table(("preset", "member", "bytes a second of video", "in all", "how it is known"), rows)
    )


def totals_table(made: dict[str, Paper]) -> list[str]:
    """Extraction as a whole, a column a preset."""
    return list(table(("extraction of HowTo100M", *made), _transposed(map(_totals, made.values()))))


def _totals(found: Paper) -> dict[str, str]:
    extraction, spoken = found.extraction, captioned(found)
    read, written = extraction.source_bytes or 0.0, extraction.bytes
    seconds = 86_400 * DAYS
    return {
        "core-hours, speech recognised in all": f"{extraction.worker_hours:,.0f}",
        "core-hours, captions for all": f"{spoken:,.0f}",
        "most of it": str(extraction.bottleneck),
        f"CPU cores for {DAYS} days, captions for all": f"{spoken / 24 / DAYS:,.0f}",
        "operations of the networks": f"{extraction.gflop_all / 1e6:,.0f} PFLOP",
        "GPU hours, at T TFLOP/s reached": f"{extraction.gflop_all / 1e3 / 3600:,.0f} / T",
        "shards of 64 videos": f"{extraction.shards:,}",
        "bytes of shards": byte_size(written),
        "bytes a shard": byte_size(written / extraction.shards),
        "bytes of videos, at 2.1 Mbit/s": byte_size(read),
        f"network in, {DAYS} days": f"{byte_size(read / seconds)}/s",
        f"network out, {DAYS} days": f"{byte_size(written / seconds)}/s",
    }


def learning_table(made: dict[str, Paper]) -> list[str]:
    """Training and embedding, a column a preset."""
    return list(
        table(
            ("training and index of HowTo100M", *made), _transposed(map(_learning, made.values()))
        )
    )


def _learning(found: Paper) -> dict[str, str]:
    training, index, stored = found.training, found.index, found.extraction.bytes
    return {
        "training: epochs": str(training.epochs),
        "training: steps": f"{training.steps:,}",
        "training: clips drawn, at most": f"{training.clips:,.3g}",
        "training: GFLOP a clip": f"{training.gflop_a_clip:,.3g}",
        "training: GPU hours, at T TFLOP/s reached": f"{training.gflop / 1e3 / 3600:,.0f} / T",
        "training: bytes read, at most": byte_size(training.epochs * stored),
        "index: clips": f"{index.clips:,}",
        "index: GPU hours of embedding, at T TFLOP/s": f"{index.gflop / 1e3 / 3600:,.1f} / T",
        "index: bytes of embeddings, at most": byte_size(index.embedding_bytes),
    }


def index_table(made: dict[str, Paper]) -> list[str]:
    """The index that is built for the default budget of memory and for a larger one."""
    rows = []
    for preset, found in made.items():
        config = load_config(preset, None, None)
        large = config.index.model_copy(update={"memory_budget": LARGE_BUDGET})
        widths = track_widths(config.extract, config.train.sampling)
        clips = found.index.clips
        for index, each in (
            (config.index, found.index),
            (large, index_cost(large, config.train, widths, clips)),
        ):
            budget = f"{index.memory_budget / 2**30:g} GiB"
            rows.append((preset, budget, f"`{each.factory}`", byte_size(each.bytes)))
    return list(table(("preset", "`index.memory_budget`", "factory", "knn.index in memory"), rows))


def _transposed(columns: Iterator[dict[str, str]]) -> list[tuple[str, ...]]:
    made = list(columns)
    return [(name, *(column[name] for column in made)) for name in made[0]]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of Markdown, all but the first column to the right."""
    yield "| " + " | ".join(columns) + " |"
    yield "|---|" + "--:|" * (len(columns) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


if __name__ == "__main__":
    main()
