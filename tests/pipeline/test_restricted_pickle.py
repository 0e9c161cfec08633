"""pipeline.restricted_pickle: arrays and tensors come back, nothing else runs."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.errors import UsageError
from pipeline.restricted_pickle import read_pickle

CONTENT = [
    {
        "2d": np.arange(6, dtype=np.float16).reshape(2, 3),
        "audio": torch.arange(8, dtype=torch.float32).reshape(2, 4).t(),
        "id": "abc",
        "end": np.float32(2.5),
        "names": np.array(["a", "b"]),
        "flags": (True, None, [1.5]),
    }
]


def write(path: Path, content: object, protocol: int = 4) -> str:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_tensors_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    (item,) = read_pickle(write(tmp_path / "a.pkl", CONTENT, protocol), trusted=True)
    np.testing.assert_array_equal(item["2d"], CONTENT[0]["2d"])
    assert item["2d"].dtype == np.float16
    assert torch.equal(item["audio"], CONTENT[0]["audio"])
    assert item["names"].tolist() == ["a", "b"]
    assert (item["id"], item["end"], item["flags"]) == ("abc", 2.5, (True, None, [1.5]))


def test_files_that_older_numpy_wrote(tmp_path: Path) -> None:
    """Before numpy 2 the module was numpy.core; the published files are older."""
    new = pickle.dumps(CONTENT, protocol=2)
    old = new.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != new
    (tmp_path / "old.pkl").write_bytes(old)
    (item,) = read_pickle(str(tmp_path / "old.pkl"), trusted=True)
    np.testing.assert_array_equal(item["2d"], CONTENT[0]["2d"])


def test_nothing_is_opened_without_trust(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--trust-pickle"):
        read_pickle(str(tmp_path / "not there.pkl"), trusted=False)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.folder,)


def test_a_call_is_refused_by_its_name_and_does_not_run(tmp_path: Path) -> None:
    url = write(tmp_path / "evil.pkl", [{"2d": Evil(tmp_path / "made")}])
    with pytest.raises(UsageError, match=r"evil\.pkl.*asks for (posix|nt)\.mkdir"):
        read_pickle(url, trusted=True)
    assert not (tmp_path / "made").exists()


def test_a_call_inside_a_tensor_is_refused(tmp_path: Path) -> None:
    """torch's own reader of a pickled storage would run it."""

    class Storage:
        def __reduce__(self) -> tuple[object, ...]:
            buffer = io.BytesIO()
            torch.save({"x": Evil(tmp_path / "made")}, buffer)
            return torch.storage._load_from_bytes, (buffer.getvalue(),)

    url = write(tmp_path / "tensor.pkl", [Storage()])
    with pytest.raises(UsageError, match="cannot be read as a pickle"):
        read_pickle(url, trusted=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (exec, "builtins.exec"),  # not print: Ray replaces it
        (np.load, "numpy.load"),
        (Path("x"), r"pathlib"),
        (getattr, "builtins.getattr"),
        (np.random.default_rng(0), "numpy.random"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path: Path, value: object, name: str) -> None:
    with pytest.raises(UsageError, match=f"asks for {name}"):
        read_pickle(write(tmp_path / "a.pkl", [value]), trusted=True)


def test_other_codecs_are_refused(tmp_path: Path) -> None:
    content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UsageError, match="codec 'rot13'"):
        read_pickle(str(tmp_path / "a.pkl"), trusted=True)


def test_ordered_dicts_are_plain_values(tmp_path: Path) -> None:
    url = write(tmp_path / "a.pkl", OrderedDict(a=1))
    assert read_pickle(url, trusted=True) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(CONTENT)[:-40]])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.pkl: cannot be read as a pickle"):
        read_pickle(str(tmp_path / "a.pkl"), trusted=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_pickle(str(tmp_path / "a.pkl"), trusted=True)
