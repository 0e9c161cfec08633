"""What a search gives."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Hit:
    """A clip that answers a query."""

    rank: int
    """From 1."""
    id: str
    """`KEY@start-end`."""
    video: str
    """The video's key."""
    uri: str
    start: float
    """Seconds."""
    end: float
    score: float
    """Higher is nearer: the cosine where the card's metric is 'cosine', the inner product for
    'dot', minus the squared distance for 'l2'."""
    text: str | None
    """What is said in the clip; None where nothing is."""


def merge_overlapping(hits: Sequence[Hit]) -> list[Hit]:
    """Hits of one video whose intervals overlap become one from the first start to the last end,
    with the best score and the texts in order of time; ranked anew.

    Intervals that only touch are not joined (clips are half open).
    """
    of_video: dict[str, list[Hit]] = defaultdict(list)
    for hit in sorted(hits, key=lambda hit: (hit.start, hit.end)):
        group = of_video[hit.video]
        if group and hit.start < group[-1].end:
            group[-1] = _joined(group[-1], hit)
        else:
            group.append(hit)
    merged = [hit for group in of_video.values() for hit in group]
    ordered = sorted(merged, key=lambda hit: hit.rank)
    return [replace(hit, rank=rank) for rank, hit in enumerate(ordered, start=1)]


def _joined(first: Hit, second: Hit) -> Hit:
    start, end = first.start, max(first.end, second.end)
    texts = dict.fromkeys(text for text in (first.text, second.text) if text)
    return replace(
        first,
        rank=min(first.rank, second.rank),
        id=f"{first.video}@{start:.3f}-{end:.3f}",
        start=start,
        end=end,
        score=max(first.score, second.score),
        text=" ".join(texts) or None,
    )
