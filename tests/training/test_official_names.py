"""training.official_names: the released names and shapes, there and back."""

import pytest
import torch

from extractors.errors import UsageError
from training.clips import TrackDims
from training.config import ModelConfig
from training.model import Mcn
from training.official_names import from_official, official_name, read_sizes, to_official

DIMS = TrackDims((6, 6), 40, 20)
SIZES = ModelConfig(
    embedding_dim=8, audio_widths=(4, 6), decoder_dim=3, mask_padding=False, similarity="raw"
)

NAMES = {
    "GU_video.fc.weight": (8, 12),
    "GU_video.cg.fc.bias": (8,),
    "GU_audio.fc.weight": (6, 6),
    "GU_audio.cg.fc.weight": (6, 6),
    "DAVEnet_projection.weight": (8, 6),
    "text_pooling_caption.fc.weight": (8, 20),
    "GU_text_captions.fc.weight": (8, 8),
    "GU_text_captions.cg.fc.weight": (8, 8),
    "recon_v.0.weight": (3, 8),
    "recon_v.2.bias": (12,),
    "recon_a.2.weight": (6, 3),
    "recon_t.2.weight": (8, 3),
    "DAVEnet.conv1.weight": (4, 1, 40, 1),
    "DAVEnet.bn1.running_var": (4,),
    "DAVEnet.batchnorm1.weight": (1,),
    "DAVEnet.layer1.0.conv1.weight": (4, 4, 1, 9),
    "DAVEnet.layer1.0.downsample.0.weight": (4, 4, 1, 1),
    "DAVEnet.layer1.0.downsample.1.num_batches_tracked": (),
    "DAVEnet.layer2.0.downsample.1.running_mean": (6,),
    "DAVEnet.layer2.1.bn2.weight": (6,),
}
"""Of the released network, some of every kind."""


def network(decoders: bool = True, seed: int = 0) -> Mcn:
    torch.manual_seed(seed)
    return Mcn(SIZES, DIMS, decoders)


@pytest.mark.parametrize("decoders", [True, False])
def test_there_and_back(decoders: bool) -> None:
    state = network(decoders).state_dict()
    official = to_official(state)
    back = from_official(official, "e9.pth")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    again = to_official(back)
    assert again.keys() == official.keys()
    assert all(torch.equal(again[name], value) for name, value in official.items())
    sizes = read_sizes(official, "e9.pth")
    assert (sizes.dims, sizes.decoders) == (DIMS, decoders)
    assert sizes.model.model_copy(update={"decoder_dim": 3}) == SIZES


def test_the_released_names_and_shapes() -> None:
    official = to_official(network().state_dict())
    assert {name: tuple(official[name].shape) for name in NAMES} == NAMES
    assert not [name for name in official if name.startswith(("davenet", "video", "stages"))]


def test_the_paper_sizes_give_every_name_once() -> None:
    with torch.device("meta"):
        state = Mcn(ModelConfig(), TrackDims((2048, 2048), 40, 300)).state_dict()
    assert len({official_name(name) for name in state}) == len(state)


def test_kernels_read_the_same_bins() -> None:
    """The first kernel's rows are mel bins: a 2D convolution as released gives the same."""
    model = network()
    official = to_official(model.state_dict())
    sound = torch.randn(2, 40, 30, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.conv2d(sound[:, None], official["DAVEnet.conv1.weight"])
    torch.testing.assert_close(model.davenet.collapse(sound), theirs[:, :, 0])
    x = torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(1))
    kernel = official["DAVEnet.layer1.0.conv1.weight"]
    theirs = torch.nn.functional.conv2d(x[:, :, None], kernel, stride=(1, 2), padding=(0, 4))
    torch.testing.assert_close(model.davenet.stages[0][0].conv1(x), theirs[:, :, 0])


def test_an_unusual_state_dict_is_refused_by_name() -> None:
    official = to_official(network().state_dict())
    wrong = dict(official)
    del wrong["DAVEnet.layer2.1.bn1.weight"]
    wrong["fc.weight"] = torch.zeros(1)
    wrong["GU_text_captions.fc.weight"] = torch.zeros(8, 7)
    with pytest.raises(UsageError) as caught:
        from_official(wrong, "odd.pth")
    said = str(caught.value)
    assert said.startswith("odd.pth: not a state dict of the released MCN")
    assert "missing: DAVEnet.layer2.1.bn1.weight;" in said
    assert "unknown: fc.weight;" in said
    assert "GU_text_captions.fc.weight (8, 7), expected (8, 8)" in said


def test_many_differing_names_are_cut_short() -> None:
    official = to_official(network().state_dict())
    more = {f"head.{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(UsageError, match=r"unknown: head.0, head.1, head.2 and 6 more"):
        from_official(official | more, "odd.pth")
    with pytest.raises(UsageError, match=r"missing: GU_video.fc.weight"):
        from_official(more, "odd.pth")


def test_what_the_released_code_lacks_is_not_exported() -> None:
    learned = SIZES.model_copy(update={"similarity": "normalised", "learn_temperature": True})
    with pytest.raises(UsageError, match="log_scale: the released network has no such weights"):
        to_official(Mcn(learned, DIMS).state_dict())
