"""training.embedding: clips and queries in the joint space."""

import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from training.clips import Clip, TrackDims, clip_inputs, video_clips
from training.embedding import (
    ClipEmbeddings,
    concatenate,
    cut_clips,
    embed_clips,
    embed_sample,
    embed_text,
)
from training.model import Mcn

CPU = torch.device("cpu")
DIMS = TrackDims((24, 16), 40, 20)


@pytest.fixture
def config(make_config):
    return make_config()


@pytest.fixture
def model(config) -> Mcn:
    torch.manual_seed(0)
    return Mcn(config.model, DIMS)


def test_clips_are_embedded_alike_alone_and_in_batches(model, config, make_sample) -> None:
    odd = {3: {"sound": False}, 5: {"segments": 0}, 7: {"picture": False}}
    samples = [make_sample(i, duration=4 + i % 3, **odd.get(i, {})) for i in range(40)]
    cut = [
        clip_inputs(sample, clip, config.sampling, DIMS)
        for sample in samples
        for clip in video_clips(sample, 10.0)
    ]
    together = embed_clips(model, cut, config, CPU)
    assert len(together) == len(cut) > 64
    singly = concatenate(
        [embed_sample(model, s, video_clips(s, 10.0), config, CPU) for s in samples]
    )
    for name in ("video", "audio", "text"):
        assert together.vectors[name].dtype == np.float32
        assert together.vectors[name].shape == (len(cut), 16)
        np.testing.assert_allclose(together.vectors[name], singly.vectors[name], atol=1e-5)
        assert together.present[name].tolist() == singly.present[name].tolist()
        assert together.present[name].tolist() == [inputs.present[name] for inputs in cut]
    assert model.training  # as it was before


def test_clips_are_cut_in_order_across_videos(config, make_sample) -> None:
    samples = [make_sample(i, segments=3) for i in range(50)]
    samples.append(make_sample(50, sound=False, picture=False, segments=0))
    parts = list(cut_clips(iter(samples), lambda s: video_clips(s, 3.0), config, DIMS))
    assert [len(part) for part in parts] == [66, 66, 18]
    keys = [item.video.key for part in parts for item in part]
    assert keys == [f"video{i:03d}" for i in range(50) for _ in range(3)]  # 50 has nothing
    assert parts[0][1].clip == Clip(2.0, 4.0)
    assert parts[0][0].video.tracks == {}
    assert len(parts[0][0].video.segments) == 3


def test_a_text_query_is_embedded_as_a_clips_text(model, config, make_sample) -> None:
    sample = make_sample(0, segments=3)
    clip = embed_sample(model, sample, [Clip(0, 6)], config, CPU)
    query = embed_text(model, sample.text)
    assert query.shape == (16,)
    assert query.dtype == np.float32
    np.testing.assert_allclose(query, clip.vectors["text"][0], atol=1e-6)


def test_wrong_queries_are_refused(model, config) -> None:
    for shape in ((3, 19), (0, 20), (20,)):
        with pytest.raises(UsageError, match=r"\(rows, 20\)"):
            embed_text(model, np.zeros(shape))
    wordless = Mcn(config.model, TrackDims((24, 16), 40, 0))
    with pytest.raises(UsageError, match="without text"):
        embed_text(wordless, np.zeros((1, 20)))


def test_joined_is_the_mean_of_what_is_there() -> None:
    vectors = {
        "video": np.array([[1, 0], [1, 0], [0, 0]], dtype=np.float32),
        "audio": np.array([[0, 1], [0, 0], [0, 0]], dtype=np.float32),
        "text": np.array([[3, 3], [0, 4], [0, 4]], dtype=np.float32),
    }
    present = {name: rows.any(axis=1) for name, rows in vectors.items()}
    raw = ClipEmbeddings(vectors, present, unit_length=False)
    np.testing.assert_allclose(raw.joined(["video", "audio"]), [[0.5, 0.5], [1, 0], [0, 0]])
    np.testing.assert_allclose(raw.joined(), [[4 / 3, 4 / 3], [0.5, 2], [0, 4]], rtol=1e-6)
    unit = ClipEmbeddings(vectors, present, unit_length=True)
    half = 0.5**0.5
    np.testing.assert_allclose(
        unit.joined(["video", "audio"]), [[half, half], [1, 0], [0, 0]], rtol=1e-6
    )
    assert raw.having(["video", "audio"]).tolist() == [True, True, False]
    with pytest.raises(UsageError, match="'video\\+smell'"):
        raw.joined(["video", "smell"])
