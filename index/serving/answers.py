"""Hits, clips and clusters as they go out over HTTP. Looks for media, so it may block."""

from collections.abc import Sequence
from urllib.parse import quote

from index.hits import Hit
from index.serving.clips import Clip, ClipMedia
from index.serving.messages import ClipOut, ClusterOut, HitOut, SampleOut, ShareOut, WordOut
from index.space_map import Cluster


def hits_out(media: ClipMedia, hits: Sequence[Hit]) -> list[HitOut]:
    """The hits of a search, with the paths of their pictures."""
    clips = [media.of_hit(hit) for hit in hits]
    media.look_into(clips)
    return [
        HitOut(**dict(clip_out(media, hit.id, clip)), rank=hit.rank, score=hit.score)
        for hit, clip in zip(hits, clips, strict=True)
    ]


def clip_out(media: ClipMedia, clip_id: str, clip: Clip) -> ClipOut:
    """A clip, likewise."""
    return ClipOut(
        id=clip_id,
        video=clip.key,
        start=clip.start,
        end=clip.end,
        text=clip.text,
        thumbnail=_thumbnail_path(clip_id),
        media=media.media_path(clip_id, clip),
    )


def cluster_out(media: ClipMedia, number: int, cluster: Cluster) -> ClusterOut:
    """A cluster with its contact sheet."""
    return ClusterOut(
        number=number,
        size=cluster.size,
        words=[WordOut(word=word, weight=weight) for word, weight in cluster.words],
        labels=[ShareOut(label=label, share=share) for label, share in cluster.labels],
        samples=[_sample(media, clip) for clip in cluster.typical],
    )


def _sample(media: ClipMedia, clip: str) -> SampleOut:
    path = media.media_path(clip, media.find(clip))
    return SampleOut(id=clip, thumbnail=_thumbnail_path(clip), media=path)


def _thumbnail_path(clip: str) -> str:
    return f"/api/clips/{quote(clip, safe='@')}/thumbnail"
