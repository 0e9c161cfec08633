"""How `run extract` is set."""

import hashlib
import json
from typing import Any

from pydantic import Field, field_validator

from extractors.build import build_extractor
from extractors.config import DecodeConfig, ExtractorConfig, ProxyConfig, SpeechConfig, TextConfig
from extractors.proxy import VERSION as PROXY_VERSION
from extractors.settings import Settings
from extractors.speech import VERSION as SPEECH_VERSION
from extractors.speech import SpeechRecogniser
from extractors.text import VERSION as TEXT_VERSION
from extractors.text import SentenceEncoder
from pipeline.shards import FORMAT_VERSION

RESERVED = {"text", "meta", "transcript", "proxy"}


class ExtractConfig(Settings):
    """Raw videos to shards."""

    videos_per_shard: int = Field(64, ge=1, le=100_000)
    """Videos of one shard: the unit of work and of commit."""
    source_mb_per_shard: float | None = Field(None, gt=0)
    """A second bound: the source files of one shard are together at most this large."""
    threads: int = Field(1, ge=1, le=256)
    """Threads of each worker's networks. Part of what decides the last bits of a float."""
    decode: DecodeConfig = DecodeConfig()
    """The ffmpeg child."""
    extractors: dict[str, ExtractorConfig | None] = Field(default_factory=dict)
    """Track name to extractor; null switches one of the preset off."""
    speech: SpeechConfig | None = SpeechConfig()
    """Transcript: captions, else speech recognition; null for none."""
    text: TextConfig | None = TextConfig()
    """Vectors of the transcript's segments; null for none."""
    proxy: ProxyConfig | None = None
    """A small mp4 of each video beside its tracks; null for none."""

    @field_validator("extractors")
    @classmethod
    def _names_are_free(
        cls, value: dict[str, ExtractorConfig | None]
    ) -> dict[str, ExtractorConfig | None]:
        for name in value:
            if name in RESERVED or not name.replace("_", "").isalnum() or name != name.lower():
                raise ValueError(
                    f"track name {name!r}: lower-case letters, digits and _ only, and none of "
                    f"{', '.join(sorted(RESERVED))}"
                )
        return value

    @property
    def wanted(self) -> dict[str, ExtractorConfig]:
        """The extractors that are on."""
        return {name: config for name, config in self.extractors.items() if config is not None}


def fingerprints(config: ExtractConfig) -> dict[str, str]:
    """For each track, a digest of everything but the video that decides its numbers.

    The extractor's kind, version, settings and weights, and the decode settings that change what
    is decoded. With the video's content id it says whether a stored track is still true.
    """
    decode = config.decode
    decoding = [decode.on_damage, decode.key_frames_only, decode.audio_language]
    found = {}
    for name, settings in config.wanted.items():
        extractor = build_extractor(settings)
        found[name] = _digest(
            settings.model_dump(mode="json", exclude={"weights"}),
            extractor.spec.version,
            extractor.weights_sha256,
            decoding,
        )
    if config.proxy is not None:
        settings_json = config.proxy.model_dump(mode="json")
        found["proxy"] = _digest(settings_json, PROXY_VERSION, decoding)
    if config.speech is not None:
        weights = SpeechRecogniser(config.speech).weights_sha256 if config.speech.recognise else ""
        found["transcript"] = _digest(
            config.speech.model_dump(mode="json"), SPEECH_VERSION, weights, decode.audio_language
        )
        if config.text is not None:
            found["text"] = _digest(
                config.text.model_dump(mode="json"),
                TEXT_VERSION,
                SentenceEncoder(config.text).weights_sha256,
                found["transcript"],
            )
    return found


def dataset_fingerprint(config: ExtractConfig) -> str:
    """One digest of all tracks, of the threads and of the shards' format."""
    return _digest(FORMAT_VERSION, config.threads, fingerprints(config))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
