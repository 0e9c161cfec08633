"""An index's part of `pipeline report`: its card, recall and latency, the map, the clusters."""

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from extractors.thumbnails import NUM_THREADS, Thumbnail
from index.card import IndexCard
from index.clip_vectors import clip_rows
from index.factory import Candidate
from index.page import clock
from index.search import SearchIndex, open_index
from index.serving.clips import ClipMedia
from index.space_map import Cluster, SpaceMap, space_map
from pipeline.charts import bars, group_colour, scatter
from pipeline.inspection_page import byte_text
from pipeline.report_page import Picture, Section, Sheet, Table

PICTURES = 6
"""Of a cluster."""
LONG_TEXT = 160


def report_index(url: str) -> list[Section]:
    """Sections of an index. Raises AbortError as `open_index` does."""
    index = open_index(url)
    made = space_map(index, "pca")
    return [_overview(index.card), _measured(index.card), _map(made), _clusters(index, made)]


def _overview(card: IndexCard) -> Section:
    facts = [
        ("clips", f"{card.count - card.masked:,}"),
        ("videos", f"{card.videos:,}"),
        ("dimension", str(card.dimension)),
        ("indexed", " + ".join(card.target_modalities)),
        ("metric", card.metric),
        ("index", card.factory),
        ("size", byte_text(card.size_bytes)),
        ("of the raw vectors", f"{100 / card.compression_ratio:.3g} %"),
        ("masked", f"{card.masked:,}"),
        *((f"with {name}", f"{count:,}") for name, count in card.embeddings.items()),
        ("built in", f"{card.build_seconds:,.1f} s"),
        ("dataset", card.dataset),
        ("model", card.model),
        ("model digest", card.model_digest[:12]),
        ("index digest", card.index_sha256[:12]),
        ("program, FAISS", f"{card.code_version}, {card.faiss_version}"),
    ]
    return Section("Index", card.reason, tuple(facts))


def _measured(card: IndexCard) -> Section:
    recall = tuple((name, f"{100 * share:.2f} %") for name, share in card.recall.items())
    latencies = {"one query, one thread": card.single_ms, "in a batch of 64": card.batch_ms}
    times = tuple(
        (name, *(f"{value:.3g}" for value in (one.p50, one.p95, one.p99)))
        for name, one in latencies.items()
    )
    tables = [
        Table("Recall", ("measure", "found"), recall, frozenset({1})),
        Table("Milliseconds a query", ("", "p50", "p95", "p99"), times, frozenset({1, 2, 3})),
    ]
    if card.candidates:
        tables.append(_candidates(card.candidates))
    note = "Against exact search, on held-out queries near stored vectors."
    parameters = tuple((name, str(value)) for name, value in card.search_parameters.items())
    return Section("Recall and latency", note, parameters, tables=tuple(tables))


def _candidates(candidates: Sequence[Candidate]) -> Table:
    """Bytes and milliseconds by estimate; the recall, where it was measured, decided."""
    rows = tuple(
        (
            one.factory,
            byte_text(one.bytes),
            f"{one.search_ms:.3g}",
            "not measured" if one.recall is None else f"{100 * one.recall:.2f} %",
        )
        for one in candidates
    )
    columns = ("factory", "size", "milliseconds", "recall@10 of its codes")
    title = "What was weighed: size and time by estimate, recall on a sample"
    return Table(title, columns, rows, frozenset({1, 2, 3}))


def _map(made: SpaceMap) -> Section:
    numbers = [str(number + 1) for number in range(len(made.clusters))]
    shown = scatter("The space in two dimensions", made.x, made.y, made.cluster, numbers)
    sizes = {_named(number, one): float(one.size) for number, one in enumerate(made.clusters)}
    colours = [group_colour(number) for number in range(len(made.clusters))]
    chart = bars("Clips a cluster", sizes, "clips", colours=colours)
    note = f"{len(made.x):,} clips by principal components, coloured by cluster of k-means."
    return Section("Map", note, wide=(shown,), charts=(chart,))


def _clusters(index: SearchIndex, made: SpaceMap) -> Section:
    media = ClipMedia(index)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        wanted = [clip for one in made.clusters for clip in one.typical[:PICTURES]]
        made_of = pool.map(lambda clip: _thumbnail(media, clip), wanted)
        pictures = dict(zip(wanted, made_of, strict=True))
    sheets = tuple(
        Sheet(
            title=f"{number + 1}: {one.size:,} clip{'' if one.size == 1 else 's'}",
            pictures=tuple(_pictures(index, one, pictures)),
            note=", ".join(f"{label} {100 * share:.0f} %" for label, share in one.labels),
            colour=group_colour(number),
            words=tuple(word for word, _ in one.words),
        )
        for number, one in enumerate(made.clusters)
    )
    return Section("Clusters", "The clips nearest to each centre, one a video.", sheets=sheets)


def _pictures(
    index: SearchIndex, cluster: Cluster, pictures: dict[str, Thumbnail]
) -> Iterator[Picture]:
    for clip in cluster.typical[:PICTURES]:
        rows_N = clip_rows(index.ids, clip, index.live_N)
        row: dict[str, Any] = index.ids.take(pa.array(rows_N[:1])).to_pylist()[0]
        times = f"{clock(row['start'])} – {clock(row['end'])}" if row["end"] else ""
        text = row["text"] or ""
        short = text if len(text) <= LONG_TEXT else text[: LONG_TEXT - 1] + "…"
        alt = f"{row['key']} {times}".strip()
        yield Picture(pictures[clip], alt, f"{row['key']} {times}".strip(), short)


def _thumbnail(media: ClipMedia, clip: str) -> Thumbnail:
    content, reason = media.thumbnail(clip)
    if not content:
        return Thumbnail(reason=reason)
    return Thumbnail(data_uri=f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}")


def _named(number: int, cluster: Cluster) -> str:
    words = ", ".join(word for word, _ in cluster.words[:2])
    return f"{number + 1} {words}" if words else str(number + 1)
