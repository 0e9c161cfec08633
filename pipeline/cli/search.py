"""`pipeline search`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import options, show

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from index.embeddings import Embedder
    from index.search import Hit, SearchIndex
    from pipeline.config import ExtractConfig


def search(
    index: Annotated[str, typer.Argument(help="The index that `run index` wrote.")],
    text: Annotated[str | None, typer.Option(help="Words to look for.")] = None,
    audio: Annotated[str | None, typer.Option(help="A sound file to look for.")] = None,
    video: Annotated[str | None, typer.Option(help="A video file to look for.")] = None,
    k: Annotated[int, typer.Option("-k", help="Number of results.", min=1)] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only clips with video=KEY, label=…, split=… or time=START-END. May be repeated."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Join overlapping results of one video.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """The clips nearest to a text, a sound or a video."""
    from index.filters import parse_where
    from index.search import open_index
    from index.search import search as search_index

    conditions = parse_where(where or [])
    opened = open_index(index)
    query = query_vector(opened, text, audio, video, options.choose_device(device))
    hits = search_index(opened, query, k, conditions, merge=merge)
    if conditions and not hits:
        show.note(f"{index}: no clip meets --where {' '.join(where or [])}")
    if as_json:
        show.out.print_json(json.dumps([asdict(hit) for hit in hits]))
    else:
        print_hits(text or audio or video or "", hits)


def query_vector(
    opened: "SearchIndex",
    text: str | None,
    audio: str | None,
    video: str | None,
    device: "torch.device",
) -> "NDArray[np.float32]":
    """The embedding of exactly one of the three. Raises UsageError otherwise."""
    from index.embeddings import load_embedder
    from index.search import check_model
    from pipeline.dataset import read_dataset_config
    from training.provenance import check_same_features

    if sum(value is not None for value in (text, audio, video)) != 1:
        raise UsageError("give exactly one of --text, --audio and --video")
    if text is not None and not text.strip():
        raise UsageError("--text: empty; say what to look for")
    embedder = load_embedder(opened.card.model, device)
    check_model(opened, embedder.digest)
    # a query goes through the extractors that dataset.json states now
    check_same_features(embedder.run.card, opened.card.dataset, embedder.run.config.sampling)
    config = read_dataset_config(opened.card.dataset)
    if text is not None:
        return text_query(embedder, text, config, device)
    path = audio if audio is not None else video
    assert path is not None
    return file_query(embedder, path, "audio" if audio is not None else "video", config, device)


def text_query(
    embedder: "Embedder", text: str, config: "ExtractConfig", device: "torch.device"
) -> "NDArray[np.float32]":
    """A sentence through the dataset's sentence encoder and the model's text branch."""
    from index.embeddings import query_from_text_vectors
    from pipeline.query import embed_sentences

    return query_from_text_vectors(embedder, embed_sentences([text], config, device))


def file_query(
    embedder: "Embedder", path: str, kind: str, config: "ExtractConfig", device: "torch.device"
) -> "NDArray[np.float32]":
    """A file through the dataset's extractors: a sound by its sound, a video by its picture."""
    from extractors.errors import VideoError
    from index.embeddings import query_from_sample
    from pipeline.query import extract_file

    without_text = config.model_copy(update={"speech": None, "text": None})
    try:
        sample = extract_file(path, without_text, device)
    except VideoError as err:
        raise UsageError(f"--{kind} {err.message}") from err
    return query_from_sample(embedder, sample, [kind])


def print_hits(query: str, hits: "list[Hit]") -> None:
    """The results of one query as a table."""
    rows = [
        (h.rank, h.video, f"{h.start:.1f}-{h.end:.1f} s", round(h.score, 3), h.text or "")
        for h in hits
    ]
    show.table(f"“{query}”", ("rank", "video", "time", "score", "transcript"), rows)
