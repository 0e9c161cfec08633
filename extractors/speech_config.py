"""How transcripts are found or recognised, and how their words become vectors."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from extractors.settings import Settings


class SpeechConfig(Settings):
    """Captions of the video if there are any, else speech recognition by faster-whisper."""

    captions: bool = True
    """Use captions: those that the source's `captions` column names, else files beside the video
    (.srt, .vtt, .ass, .ssa, yt-dlp's KEY.LANG.vtt and KEY.info.json), else `caption_table`, else a
    subtitle stream inside the video."""
    caption_language: str | None = None
    """The captions to use, by language (`en`; `en-GB` and `eng` are the same); others are passed
    over, those that name no language are a last choice. Null takes any. In each language, captions
    made by hand come before automatic ones where their name tells."""
    caption_table: str | None = None
    """A local JSON file with the captions of many videos, as HowTo100M publishes them
    (`{id: {start: [], end: [], text: []}}`, the id being the video's file name without suffix, or
    its key). It is indexed once for each machine; the index (.sqlite) may be given in its place."""
    embedded_captions: bool = True
    """Use subtitle streams inside the video. Each reads the file once more; streams of pictures
    (DVD, Blu-ray) cannot be used."""
    recognise: bool = True
    """Recognise speech where there are no captions."""
    model: str = "tiny.en"
    """`tiny.en` from the registry, or the path of a faster-whisper (CTranslate2) model folder."""
    language: str | None = "en"
    """ISO code; null lets a multilingual model detect it, for every ten minutes of sound."""
    beam_size: int = Field(1, ge=1, le=20)
    """Beam width of the decoder."""
    batch_size: int | None = Field(None, ge=1, le=256)
    """Stretches of speech (up to 30 s) recognised together: for GPUs, no gain on one CPU core, and
    words can be lost where stretches meet. Null recognises one after the other."""
    precision: Literal["int8", "float16", "float32"] = "int8"
    """Arithmetic of the recogniser."""
    word_times: bool = False
    """Also give each word's start and end; recognition takes about a third longer."""
    max_no_speech: float = Field(0.6, gt=0, le=1)
    """Segments more likely to be no speech than this are dropped; 1 keeps all."""
    max_compression: float | None = Field(2.4, gt=0)
    """Segments whose text gzip shrinks by more than this are dropped: they repeat themselves.
    Whisper's own bound is 2.4. Null keeps all."""
    min_log_probability: float | None = Field(-1.0, le=0)
    """Segments whose tokens have a lower mean log probability are dropped: the recogniser guessed.
    Whisper's own bound is -1. Null keeps all."""
    max_repeats: int | None = Field(3, ge=1)
    """Of segments with the same text one after the other, only so many are kept: a recogniser that
    is stuck says one line for minutes. Null keeps all."""

    @field_validator("caption_language")
    @classmethod
    def _is_a_language(cls, value: str | None) -> str | None:
        if value is not None:
            import langcodes  # not for a bare --help

            if not langcodes.tag_is_valid(value):
                raise ValueError("not a language tag, as `en` or `pt-BR` are")
        return value


class TextConfig(Settings):
    """One sentence-transformers vector a segment."""

    kind: Literal["sentences"] = "sentences"
    model: str = "all-MiniLM-L6-v2"
    """`all-MiniLM-L6-v2` from the registry, or the path of a sentence-transformers folder."""
    batch_size: int = Field(64, ge=1)
    """Sentences a forward pass, across videos."""


class WordVectorsConfig(Settings):
    """word2vec's vectors, one a word: the papers' text (GoogleNews, 300 columns)."""

    kind: Literal["words"] = "words"
    vectors: str
    """A local file of word vectors in word2vec's formats: binary if it ends in .bin or .bin.gz,
    else text with a header line (.txt, .vec, .gz)."""
    max_words: int = Field(20, ge=1, le=1000)
    """Words kept of a segment, counted after those without a vector are dropped; MCN takes 20 of a
    clip."""
    vocabulary: int | None = Field(None, ge=1)
    """Read only so many words, from the file's first on (the files have frequent words first).
    GoogleNews has 3 million, which take 2 GB of memory in each worker. Null reads all."""


def _text_kind(given: Any) -> Any:
    """`sentences` where nothing is said: configurations that are older than word vectors."""
    if isinstance(given, dict):
        return given.get("kind", "sentences")
    return getattr(given, "kind", None)


TextChoice = Annotated[
    Annotated[TextConfig, Tag("sentences")] | Annotated[WordVectorsConfig, Tag("words")],
    Discriminator(_text_kind),
]
