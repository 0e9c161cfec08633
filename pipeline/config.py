"""How `run extract` is set."""

from pydantic import Field, field_validator

from extractors.config import ExtractorConfig
from extractors.decode_config import DecodeConfig, ProxyConfig
from extractors.settings import Settings
from extractors.speech_config import SpeechConfig, TextChoice, TextConfig, WordVectorsConfig

# members of a sample and stages of a worker: no track may be called so
RESERVED = {
    "text",
    "meta",
    "transcript",
    "proxy",
    "probe",
    "captions",
    "decode",
    "speech",
    "finish",
}


class ExtractConfig(Settings):
    """Raw videos to shards."""

    videos_per_shard: int = Field(64, ge=1, le=100_000)
    """Videos of one shard: the unit of work and of commit."""
    source_mb_per_shard: float | None = Field(None, gt=0)
    """A second bound: the source files of one shard are together at most this large."""
    threads: int = Field(1, ge=1, le=256)
    """Threads of each worker's networks. Part of what decides the last bits of a float."""
    max_attempts: int = Field(3, ge=1, le=100)
    """A shard whose worker process died is tried again; the attempt of this number takes its videos
    one by one, and the video at which it dies becomes a failed row (`crashed_worker`)."""
    worker_memory_mb: int | None = Field(None, ge=1)
    """A worker process that holds more resident memory than this after a job is replaced by a new
    one; null for never."""
    decode: DecodeConfig = DecodeConfig()
    """The ffmpeg child."""
    extractors: dict[str, ExtractorConfig | None] = Field(default_factory=dict)
    """Track name to extractor; null switches one of the preset off."""
    speech: SpeechConfig | None = SpeechConfig()
    """Transcript: captions, else speech recognition; null for none."""
    text: TextChoice | None = TextConfig()
    """Vectors of the transcript's segments, or of their words; null for none."""
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

    @property
    def has_word_vectors(self) -> bool:
        """Whether a segment has a row of text for each of its words."""
        return isinstance(self.text, WordVectorsConfig)
