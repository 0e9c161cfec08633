"""Before the first video: whether all weights are there, and fetching those that can be fetched.

The driver calls `provide_weights` once; without it every worker would fetch for itself, and a
setting that names a file that is not there would be found only when the first worker starts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from extractors.config import (
    ActionModelConfig,
    AudioModelConfig,
    ExtractorConfig,
    ImageModelConfig,
    MotionModelConfig,
    OnnxAudioConfig,
    ShotsConfig,
)
from extractors.errors import AbortError
from extractors.image_networks import HF
from extractors.speech import registry_or_path
from extractors.speech_config import SpeechConfig, TextConfig, WordVectorsConfig
from extractors.transnet import NAME as TRANSNET
from extractors.weights import Weights, cache_folder, check_source, find_weights, is_whole, locate


@dataclass(frozen=True)
class Need:
    """Weights that a configuration needs."""

    key: str
    """The setting that can name a local file or folder."""
    name: str
    """In the registry, where `local` is None."""
    local: str | None
    is_transformers: bool = False
    """A folder of transformers, from which safetensors alone are read."""


def needed_weights(
    extractors: Mapping[str, ExtractorConfig],
    speech: SpeechConfig | None,
    text: TextConfig | WordVectorsConfig | None,
) -> list[Need]:
    """All weights of a configuration, in its order; plugins keep their own."""
    found = [_of_extractor(f"extract.extractors.{name}", each) for name, each in extractors.items()]
    return [need for need in (*found, *_of_speech(speech, text)) if need is not None]


def _of_extractor(key: str, config: ExtractorConfig) -> Need | None:
    match config:
        case ImageModelConfig() if config.model.startswith(HF):
            return Need(f"{key}.model", config.model, config.model.removeprefix(HF), True)
        case ImageModelConfig() | ActionModelConfig():
            return Need(f"{key}.weights", config.model, config.weights)
        case MotionModelConfig() | ShotsConfig():
            return Need(f"{key}.weights", TRANSNET, config.weights)
        case OnnxAudioConfig():
            return Need(f"{key}.weights", config.kind, config.weights)
        case AudioModelConfig():
            return Need(f"{key}.weights", config.kind, config.weights, True)
    return None


def _of_speech(
    speech: SpeechConfig | None, text: TextConfig | WordVectorsConfig | None
) -> Iterator[Need]:
    """The vectors are of the transcript: without speech there are none."""
    if speech is not None and speech.recognise:
        yield Need("extract.speech.model", *registry_or_path(speech.model))
    if speech is not None and isinstance(text, TextConfig):
        yield Need("extract.text.model", *registry_or_path(text.model))
    elif speech is not None and isinstance(text, WordVectorsConfig):
        yield Need("extract.text.vectors", "word vectors", text.vectors)


def missing_weights(
    extractors: Mapping[str, ExtractorConfig],
    speech: SpeechConfig | None,
    text: TextConfig | WordVectorsConfig | None,
) -> list[str]:
    """A line for each that is not on this machine, which says how to get it; nothing is fetched."""
    lines = []
    for need in needed_weights(extractors, speech, text):
        problem = _incurable(need)
        if problem is None and not is_here(need):
            problem = (
                f"{need.key}: {need.name} is not in {cache_folder()}: `pipeline weights fetch "
                f"{need.name}` where there is a network, or set it to a local file"
            )
        lines += [problem] if problem else []
    return lines


def provide_weights(
    extractors: Mapping[str, ExtractorConfig],
    speech: SpeechConfig | None,
    text: TextConfig | WordVectorsConfig | None,
    on_fetch: Callable[[Weights], None] = lambda _: None,
) -> None:
    """Fetches what the registry has and this machine has not, each set once, after `on_fetch`.

    Raises AbortError, in one line and before anything is fetched, where a setting names a file that
    is not there or weights that the registry does not have; and where fetching fails.
    """
    needs = needed_weights(extractors, speech, text)
    problems = [problem for need in needs if (problem := _incurable(need))]
    if problems:
        raise AbortError("; ".join(problems))
    for need in needs:
        if not is_here(need):
            on_fetch(find_weights(need.name))
            locate(need.name, None, need.key)


def is_here(need: Need) -> bool:
    """Whether its files are on this machine, and those of the registry whole."""
    return need.local is not None or is_whole(find_weights(need.name))


def _incurable(need: Need) -> str | None:
    """What no fetching can mend."""
    if need.local is None:
        try:
            check_source(need.name, None, need.key)
        except AbortError as err:
            return str(err)
        return None
    path = Path(need.local)
    if not path.exists():
        return f"{need.key} = {path}: no such file"
    if need.is_transformers and not any(path.glob("*.safetensors")):
        return f"{need.key} = {path}: no .safetensors in this folder (`save_pretrained` writes it)"
    return None
