"""From a configuration to its extractor: the one place that knows them all."""

from extractors.config import (
    ActionModelConfig,
    AudioModelConfig,
    ExtractorConfig,
    ImageModelConfig,
    LogMelConfig,
    MeanColourConfig,
    MotionModelConfig,
    OnnxAudioConfig,
    PluginConfig,
    ShotsConfig,
    XdcAudioConfig,
    XdcVideoConfig,
)
from extractors.extractor import Extractor


def build_extractor(config: ExtractorConfig) -> Extractor:
    """Light: nothing loads before its `setup`. Modules are imported when they are asked for."""
    match config:
        case ImageModelConfig():
            from extractors.image_model import ImageModel

            return ImageModel(config)
        case MotionModelConfig():
            from extractors.motion_model import MotionModel

            return MotionModel(config)
        case ShotsConfig():
            from extractors.shots import Shots

            return Shots(config)
        case ActionModelConfig():
            from extractors.action_model import ActionModel

            return ActionModel(config)
        case LogMelConfig() | OnnxAudioConfig() | AudioModelConfig() | XdcAudioConfig():
            return _for_sound(config)
        case XdcVideoConfig():
            from extractors.xdc_model import XdcVideo

            return XdcVideo(config)
        case MeanColourConfig():
            from extractors.mean_colour import MeanColour

            return MeanColour(config)
        case PluginConfig():
            from extractors.plugins import build_plugin

            return build_plugin(config)


def _for_sound(
    config: LogMelConfig | OnnxAudioConfig | AudioModelConfig | XdcAudioConfig,
) -> Extractor:
    match config:
        case LogMelConfig():
            from extractors.log_mel import log_mel

            return log_mel(config)
        case OnnxAudioConfig():
            from extractors.onnx_audio import OnnxAudio

            return OnnxAudio(config)
        case AudioModelConfig():
            from extractors.audio_model import AudioModel

            return AudioModel(config)
        case XdcAudioConfig():
            from extractors.xdc_model import XdcAudio

            return XdcAudio(config)
