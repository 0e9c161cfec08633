"""Pickles of published datasets, of which nothing runs: arrays and tensors or nothing."""

import importlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from extractors.errors import UsageError
from pipeline import storage


def read_pickle(url: str, trusted: bool) -> Any:
    """The content of a pickle that holds numpy arrays, torch tensors and plain values.

    Lists, tuples, dicts, strings and numbers need no permission; of all that a pickle can call,
    only what rebuilds arrays and tensors is allowed, tensors through torch's weights-only reader
    and onto the CPU. Raises UsageError without `trusted`, for a file that is no whole pickle, and
    for one that asks for anything else, whose name it gives; nothing of that has then run.
    """
    if not trusted:
        raise UsageError(
            f"{url}: is a pickle; give --trust-pickle if you trust where it comes from (arrays "
            "and tensors alone are read from it)"
        )
    try:
        file = storage.open_binary(url)
    except FileNotFoundError as err:
        raise UsageError(f"{url}: no such file") from err
    with file:
        try:
            return _ArraysOnly(file, encoding="latin1").load()  # latin1: arrays of Python 2
        except _DAMAGE as err:
            raise UsageError(f"{url}: cannot be read as a pickle: {err}") from err


_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError,
    RuntimeError,
)  # fmt: skip
"""What a damaged pickle makes the unpickler, numpy and torch raise."""


class _ArraysOnly(pickle.Unpickler):
    """Finds the functions of `_ALLOWED`, under the names of old and new numpy, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for every global that a pickle names. Raises UnpicklingError for all others."""
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; allowed are numpy arrays and torch tensors alone"
            )
        return allowed()


def _numpy(module: str, name: str) -> Callable[[], Any]:
    """The private names under which numpy pickles its arrays."""
    return lambda: getattr(importlib.import_module(module), name)


def _torch_storage() -> Callable[[bytes], Any]:
    """torch.storage._load_from_bytes without what makes it unsafe."""
    return lambda content: torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _latin1_bytes() -> Callable[[str, str], bytes]:
    """Bytes of pickle protocol 2, as _codecs.encode without its other codecs."""

    def encode(text: str, codec: str) -> bytes:
        if codec != "latin1":
            raise pickle.UnpicklingError(f"it asks for the codec {codec!r}; allowed is latin1")
        return text.encode("latin1")

    return encode


_ALLOWED: Mapping[tuple[str, str], Callable[[], Any]] = {
    ("numpy", "ndarray"): _numpy("numpy", "ndarray"),
    ("numpy", "dtype"): _numpy("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"): _numpy("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"): _numpy("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"): _numpy("numpy._core.numeric", "_frombuffer"),
    ("torch._utils", "_rebuild_tensor_v2"): _numpy("torch._utils", "_rebuild_tensor_v2"),
    ("torch.storage", "_load_from_bytes"): _torch_storage,
    ("collections", "OrderedDict"): lambda: OrderedDict,  # the hooks of a tensor: none
    ("_codecs", "encode"): _latin1_bytes,
}
