"""meta.json of a sample: what the video is, what its tracks are and what made each of them."""

from collections.abc import Mapping
from typing import Any

from extractors.decode_config import ProxyConfig
from extractors.extractor import Extractor
from extractors.probe import Probe
from extractors.tracks import Track
from extractors.views import SoundView
from pipeline.batching import Batcher, InProgress

FACTS_OF_THE_FILE = (
    *("content_id", "duration", "damage", "decoded_on", "decode_fallback", "picture", "sound"),
)


def describe(
    progress: InProgress,
    batchers: list[Batcher],
    tracks: Mapping[str, Track],
    proxy: ProxyConfig | None,
    made: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """meta.json of a video. `made` is the provenance of what is made now; what is carried keeps
    its own, and with anything carried the facts of the file are the stored ones."""
    stored = progress.stored.meta if progress.stored else {}
    carried = progress.carried
    facts = {name: stored[name] for name in FACTS_OF_THE_FILE} if stored else _file_facts(progress)
    described = {
        batcher.name: stored["tracks"][batcher.name]
        if batcher.name in carried
        else _track_facts(batcher.extractor, tracks.get(batcher.name), facts)
        for batcher in batchers
    }
    meta = facts | {
        "path": progress.video.path,
        "label": progress.video.label,
        "split": progress.video.split,
        "captions_id": progress.captions_id,
        "text_source": progress.segments[0].source if progress.segments else "",
        "tracks": described,
        "provenance": {
            name: stored["provenance"][name] if name in carried else entry
            for name, entry in made.items()
        },
    }
    if "transcript" in made:
        meta["transcript"] = progress.transcript
    if proxy is not None:
        meta["proxy"] = stored["proxy"] if "proxy" in carried else _proxy_facts(progress, proxy)
    return meta


def _file_facts(progress: InProgress) -> dict[str, Any]:
    """What probing and decoding found."""
    assert progress.probed is not None
    assert progress.decoded is not None
    probed, decoded = progress.probed, progress.decoded
    declared = probed.duration if decoded.damage is None else None
    return {
        "content_id": progress.content_id,
        "duration": round(declared or decoded.duration, 3),
        "damage": decoded.damage or "",
        "decoded_on": decoded.device,
        "decode_fallback": decoded.fallback,
        "picture": _picture_facts(probed),
        "sound": probed.sound and {"codec": probed.sound.codec},
    }


def _picture_facts(probed: Probe) -> dict[str, Any] | None:
    if probed.picture is None:
        return None
    return {
        "codec": probed.picture.codec,
        "height": probed.picture.height,
        "width": probed.picture.width,
        "rate": probed.picture.rate,
    }


def _track_facts(
    extractor: Extractor, track: Track | None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What meta.json says of a track. The same keys for one that is absent (no rows, and why), so
    that readers which want every sample of a shard alike are served."""
    spec = extractor.spec
    if track is not None:
        absent = ""
    elif isinstance(extractor.view, SoundView):
        absent = "the sound is too short for a row" if facts["sound"] else "no sound track"
    else:
        absent = "the picture is too short for a row" if facts["picture"] else "no picture"
    return {
        "start": spec.start,
        "hop": spec.hop,
        "rows": 0 if track is None else len(track.rows),
        "dim": spec.dim,
        "dtype": spec.dtype,
        "absent": absent,
    }


def _proxy_facts(progress: InProgress, config: ProxyConfig) -> dict[str, Any]:
    rate = config.rate if progress.proxy else 0.0
    return {"rate": rate, "absent": "" if progress.proxy else "no picture"}
