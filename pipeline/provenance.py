"""What decides the numbers of a dataset: for each of a sample's tracks, its settings and weights.

A fingerprint is the digest of that. Two that are equal made the same numbers of the same video; of
two that differ, `changes` says in which setting.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from extractors.build import build_extractor
from extractors.caption_tables import table_digest
from extractors.decode_command import VERSION as DECODE_VERSION
from extractors.ffmpeg import ffmpeg_version
from extractors.proxy import VERSION as PROXY_VERSION
from extractors.speech import VERSION as SPEECH_VERSION
from extractors.speech import SpeechRecogniser
from extractors.text import VERSION as TEXT_VERSION
from extractors.text import build_text_encoder
from pipeline.config import ExtractConfig
from pipeline.shards import FORMAT_VERSION

Provenance = dict[str, dict[str, Any]]
"""Name of a track, of `transcript`, `text` or `proxy`, to what decides its numbers."""


def provenance(config: ExtractConfig) -> Provenance:
    """Everything but the video that decides each track: settings, version and weights of what makes
    it, the decode settings that change what is decoded, the threads (a sum's last bits)."""
    decode = config.decode
    decoding = {
        "version": DECODE_VERSION,
        "on_damage": decode.on_damage,
        "key_frames_only": decode.key_frames_only,
        "scaler": decode.scaler,
        "audio_language": decode.audio_language,
    }
    found: Provenance = {}
    for name, settings in config.wanted.items():
        extractor = build_extractor(settings)
        found[name] = {
            "settings": settings.model_dump(mode="json", exclude={"weights"}),
            "version": extractor.spec.version,
            "weights_sha256": extractor.weights_sha256,
            "threads": config.threads,
            "decode": decoding,
        }
    if config.proxy is not None:
        found["proxy"] = {
            "settings": config.proxy.model_dump(mode="json"),
            "version": PROXY_VERSION,
            "decode": decoding,
        }
    return found | _of_speech(config)


def _of_speech(config: ExtractConfig) -> Provenance:
    """Of the transcript and of its vectors."""
    if config.speech is None:
        return {}
    recogniser = SpeechRecogniser(config.speech) if config.speech.recognise else None
    table = config.speech.caption_table if config.speech.captions else None
    transcript = {
        "settings": config.speech.model_dump(mode="json", exclude={"caption_table"}),
        "version": SPEECH_VERSION,
        "weights_sha256": recogniser and recogniser.weights_sha256,
        "caption_table_sha256": table and table_digest(table),
        "threads": config.threads,
        "decode": {"audio_language": config.decode.audio_language},
    }
    if config.text is None:
        return {"transcript": transcript}
    text = {
        "settings": config.text.model_dump(mode="json", exclude={"vectors"}),
        "version": TEXT_VERSION,
        "weights_sha256": build_text_encoder(config.text).weights_sha256,
        "threads": config.threads,
        "transcript": digest(transcript),
    }
    return {"transcript": transcript, "text": text}


def fingerprints(config: ExtractConfig) -> dict[str, str]:
    """The digest of each track's provenance: with the video's content id it says whether a stored
    track is still true."""
    return {name: digest(facts) for name, facts in provenance(config).items()}


def dataset_fingerprint(config: ExtractConfig) -> str:
    """One digest of all tracks and of the shards' format."""
    return joint_fingerprint(provenance(config))


def joint_fingerprint(tracks: Provenance) -> str:
    """One digest of all these tracks and of the shards' format."""
    return digest([FORMAT_VERSION, {name: digest(facts) for name, facts in tracks.items()}])


def made_with() -> dict[str, str]:
    """The programs that are at work: part of the provenance that is told, not of fingerprints."""
    return {
        "decoder": f"ffmpeg {ffmpeg_version()}",
        "code": f"multimodal-clustering-pipeline {version('multimodal-clustering-pipeline')}",
    }


def digest(content: Any) -> str:
    """16 hex digits of anything that is JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two provenances, a line each: `visual_2d: rate changed from 1.0 to 2.0`.

    Empty where they decide the same numbers.
    """
    lines = [f"{name}: new" for name in new if name not in old]
    lines += [f"{name}: no longer wanted" for name in old if name not in new]
    both = [name for name in new if name in old]
    return lines + [
        f"{name}: {line}" for name in both for line in _differences(old[name], new[name])
    ]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    flat_old, flat_new = dict(_flat(old)), dict(_flat(new))
    for key in sorted(flat_old.keys() | flat_new.keys()):
        before, after = flat_old.get(key), flat_new.get(key)
        if before == after:
            continue
        if key == "transcript":
            yield "the transcript changes"
        elif key.endswith("_sha256"):
            what = key.removesuffix("_sha256").replace("_", " ")
            yield f"{what} changed from {_short(before)} to {_short(after)}"
        else:
            yield f"{key} changed from {before} to {after}"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted name; a setting by its own name."""
    for key, item in value.items():
        name = prefix if key == "settings" else f"{prefix}{key}."
        if isinstance(item, Mapping):
            yield from _flat(item, name)
        else:
            yield f"{prefix}{key}", item


def _short(sha256: str | None) -> str:
    return "none" if sha256 is None else f"{sha256[:12]}…"
