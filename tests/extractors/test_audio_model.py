"""Audio encoders of transformers, small and random, against transformers called directly."""

import json

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from extractors.audio_model import AudioModel
from extractors.config import AudioModelConfig
from extractors.errors import AbortError, UsageError
from extractors.windows import Window

# filters of so few bins are empty at the low end, of which transformers warns
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
CPU = torch.device("cpu")
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32}  # fmt: skip
WAVES = SMALL | {"conv_dim": (16, 16), "conv_stride": (20, 16), "conv_kernel": (40, 16),
                 "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
                 "num_conv_pos_embedding_groups": 2}  # fmt: skip


def wav2vec2():
    return transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**WAVES)), (
        transformers.Wav2Vec2FeatureExtractor()
    )


def hubert():
    """As it is published for recognition: the encoder behind a prefix, and a head."""
    return transformers.HubertForCTC(transformers.HubertConfig(**WAVES, vocab_size=9)), (
        transformers.Wav2Vec2FeatureExtractor()
    )


def ast():
    config = transformers.ASTConfig(**SMALL, max_length=128, num_mel_bins=32)
    return transformers.ASTForAudioClassification(config), (
        transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=32)
    )


def whisper():
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=100,
        max_source_positions=100, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3,
    )  # fmt: skip
    return transformers.WhisperModel(config), transformers.WhisperFeatureExtractor(chunk_length=2)


def clap():
    sound = {"hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2],
             "patch_embeds_hidden_size": 16, "num_mel_bins": 64, "spec_size": 256}  # fmt: skip
    config = transformers.ClapConfig(
        text_config=SMALL | {"vocab_size": 50}, audio_config=sound, projection_dim=20
    )
    return transformers.ClapModel(config), (
        transformers.ClapFeatureExtractor(max_length_s=2, truncation="rand_trunc")
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(model, feature extractor, folder) by name, made once."""
    made = {}

    def make(build):
        if build not in made:
            torch.manual_seed(0)
            model, features = build()
            folder = tmp_path_factory.mktemp(build.__name__)
            model.eval().save_pretrained(folder)
            features.save_pretrained(folder)
            made[build] = model, features, str(folder)
        return made[build]

    return make


def sounds(extractor, count=2):
    rng = np.random.default_rng((0, 0))
    shape = (count, extractor.windowing.size)
    samples = rng.integers(-9000, 9000, shape).astype(np.int16)
    return [Window(each, extractor.windowing.step) for each in samples]


def reference(build, model, inputs, pool):
    """What the library itself gives, a window at a time."""
    with torch.inference_mode():
        if build is clap:
            longer = torch.zeros(1, 1, dtype=torch.bool)
            found = model.get_audio_features(input_features=inputs, is_longer=longer)
            return found.pooler_output
        if build is whisper:
            return model.encoder(inputs).last_hidden_state.mean(1)
        if build is ast:
            found = model.audio_spectrogram_transformer(inputs)
            return found.pooler_output if pool == "cls" else found.last_hidden_state.mean(1)
        base = model.hubert if build is hubert else model
        return base(inputs).last_hidden_state.mean(1)


@pytest.mark.parametrize(
    ("build", "pool", "same", "dim", "rate"),
    [(wav2vec2, "auto", "mean", 24, 16_000), (hubert, "mean", "mean", 24, 16_000),
     (ast, "auto", "cls", 24, 16_000), (ast, "mean", "mean", 24, 16_000),
     (whisper, "auto", "mean", 16, 16_000), (clap, "auto", "cls", 20, 48_000)],
)  # fmt: skip
def test_rows_are_transformers_own(build, pool, same, dim, rate, saved):
    model, features, folder = saved(build)
    config = AudioModelConfig(weights=folder, window=1.0, hop=0.5, pool=pool, normalise=False)
    extractor = AudioModel(config)
    assert (extractor.spec.dim, extractor.view.rate) == (dim, rate)
    assert (extractor.spec.start, extractor.spec.hop) == (0.5, 0.5)
    extractor.setup(CPU)
    batch = sounds(extractor)
    rows = np.concatenate(extractor.extract(batch))
    for row, window in zip(rows, batch, strict=True):
        sound = window.data.astype(np.float32) / 32768
        given = features(sound, sampling_rate=rate, return_tensors="pt")
        inputs = given.get("input_values", given.get("input_features"))
        (expected,) = reference(build, model, inputs, same).numpy()
        np.testing.assert_allclose(row, expected, atol=2e-5)  # two windows in one product
    assert not np.allclose(rows[0], rows[1], atol=1e-3)
    extractor.close()


def test_a_pool_that_the_model_does_not_offer(saved):
    for build, pool, allowed in ((wav2vec2, "cls", "mean"), (clap, "mean", "cls")):
        _, _, folder = saved(build)
        extractor = AudioModel(AudioModelConfig(weights=folder, window=1.0, pool=pool))
        with pytest.raises(UsageError, match=f"pool = {pool}: .*: use {allowed}"):
            extractor.setup(CPU)


@pytest.mark.parametrize(("build", "longest"), [(clap, 2), (ast, 1.28), (whisper, 2)])
def test_a_window_that_the_features_would_cut(build, longest, saved):
    _, _, folder = saved(build)
    with pytest.raises(UsageError, match=f"takes {longest:g} seconds at most"):
        AudioModel(AudioModelConfig(weights=folder, window=longest + 0.1))
    AudioModel(AudioModelConfig(weights=folder, window=longest, hop=0.5))
    with pytest.raises(ValidationError, match="at most window"):
        AudioModelConfig(weights=folder, window=1.0, hop=2.0)


def test_only_safetensors_are_read(saved, tmp_path):
    model, features, _ = saved(wav2vec2)
    model.config.save_pretrained(tmp_path)
    features.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(AbortError, match="cannot be read as an audio model") as caught:
        AudioModel(AudioModelConfig(weights=str(tmp_path), window=1.0)).setup(CPU)
    assert "\n" not in str(caught.value)


def test_weights_that_leave_the_model_half_random(saved, tmp_path):
    model, features, folder = saved(wav2vec2)
    model.config.save_pretrained(tmp_path)
    features.save_pretrained(tmp_path)
    state = load_file(f"{folder}/model.safetensors")
    kept = {name: value for name, value in state.items() if "layers.1" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AbortError, match=r"do not fill Wav2Vec2Model: encoder.layers.1"):
        AudioModel(AudioModelConfig(weights=str(tmp_path), window=1.0)).setup(CPU)


def test_a_model_that_does_not_encode_sound(tmp_path):
    config = transformers.BertConfig(**SMALL, vocab_size=50)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="not an audio model's folder") as caught:
        AudioModel(AudioModelConfig(weights=str(tmp_path)))
    assert "\n" not in str(caught.value)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(AbortError, match="cannot encode sound"):
        AudioModel(AudioModelConfig(weights=str(tmp_path))).setup(CPU)


def test_a_model_of_another_width_than_it_says(saved, tmp_path):
    model, features, _ = saved(wav2vec2)
    features.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(facts | {"d_model": 7}))
    with pytest.raises(AbortError, match="gives 24 columns, not 7"):
        AudioModel(AudioModelConfig(weights=str(tmp_path), window=1.0)).setup(CPU)


def test_the_fingerprint_is_of_the_whole_folder(saved, tmp_path):
    model, _, folder = saved(wav2vec2)
    before = AudioModel(AudioModelConfig(weights=folder)).weights_sha256
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    assert AudioModel(AudioModelConfig(weights=str(tmp_path))).weights_sha256 != before
