"""What one worker needs: of extraction, as the sum over what its extractors say."""

from extractors.build import build_extractor
from extractors.extractor import Resources
from extractors.speech import SpeechRecogniser
from extractors.text import build_text_encoder
from pipeline.config import ExtractConfig

PROCESS_MB = 500
"""Of a worker process before it loads a model."""
TRAIN_CPUS = 4
"""Cores that a worker of training asks for on a cluster that is not ours alone: the network's, and
its reader's."""


def worker_resources(config: ExtractConfig) -> Resources:
    """What one worker needs: its threads, and the sum over its models."""
    needs = [build_extractor(settings).resources for settings in config.wanted.values()]
    if config.speech is not None and config.speech.recognise:
        needs.append(SpeechRecogniser.resources)
    if config.text is not None:
        needs.append(build_text_encoder(config.text).resources)
    return Resources(
        cpus=max(config.threads, config.decode.threads),
        gpus=min(1.0, sum(need.gpus for need in needs)),
        memory_mb=PROCESS_MB + sum(need.memory_mb for need in needs),
    )
