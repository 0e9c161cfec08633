"""`pipeline inspect`: what is in a shard, as a table, as JSON or as a page."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options, show

if TYPE_CHECKING:
    from pipeline.inspection import Inspected

SHOWN = 24


def inspect(
    shard: Annotated[str, typer.Argument(help="DATASET/shards/000000.tar, or DATASET.")],
    key: Annotated[str | None, typer.Option(help="This video alone.")] = None,
    html: Annotated[str | None, typer.Option(help="Write a page that shows them.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="At most so many videos; 24 of a dataset and on a page.", min=1),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """What is in a shard or a dataset: its videos, their tracks and transcripts, what made them;
    as a page with frames and spectrograms too."""
    from pipeline.inspection import find_shards, inspect_videos

    dataset, numbers = find_shards(shard, key)
    if limit is None and (html is not None or len(numbers) > 1):
        limit = SHOWN
    videos = inspect_videos(dataset, numbers, key=key, limit=limit)
    if html is not None:
        from pipeline.inspection_page import write_page

        write_page(html, shard, videos)
        show.note(f"{html}: {len(videos)} videos")
    if as_json:
        typer.echo(json.dumps([video.as_json() for video in videos], indent=2, ensure_ascii=False))
    elif html is None:
        columns = ("key", "length", "tracks", "transcript")
        show.table(shard, columns, [_row(video) for video in videos])


def _row(video: "Inspected") -> tuple[str, str, str, str]:
    sample = video.sample
    tracks = (f"{n} {t.rows.shape[0]}x{t.rows.shape[1]}" for n, t in sample.tracks.items())
    said = " / ".join(segment.text for segment in sample.segments)
    return sample.key, show.duration(sample.duration), ", ".join(tracks), said
