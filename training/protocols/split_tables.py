"""A table of labelled videos and their splits: what `evaluate list` writes and evaluation reads.

A csv with a row a video: `path`, `key`, `label`, `split` (of the first split: what a dataset can
hold), `group`, and `split_1`, `split_2` … with `train`, `test` or nothing. It is a source of `run
extract` as it is. Shapes: V videos.
"""

import csv
import io
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from extractors.errors import UsageError
from pipeline import storage
from pipeline.dataset import read_all_rows
from pipeline.sources import key_of
from training.protocols.labelled_sets import PARTS, LabelledSet, Part

PREFIX = "split_"


@dataclass(frozen=True)
class SplitTable:
    """Labelled videos by key, and which splits train on and test which."""

    keys: tuple[str, ...]
    label_V: NDArray[np.str_]
    group_V: NDArray[np.str_]
    """Videos of one group are kept together when settings are chosen; else the key."""
    parts: Mapping[str, NDArray[np.str_]]
    """(V,) of each split: 'train', 'test' or ''."""

    def where(self, split: str, part: Part) -> NDArray[np.bool_]:
        """(V,) the videos of a part."""
        found_V: NDArray[np.bool_] = self.parts[split] == part
        return found_V

    def only(self, splits: Sequence[str]) -> "SplitTable":
        """The same with some of its splits. Raises UsageError for one that it has not."""
        unknown = [name for name in splits if name not in self.parts]
        if unknown:
            raise UsageError(f"no split {unknown[0]!r}; there are: {', '.join(self.parts)}")
        return replace(self, parts={name: self.parts[name] for name in splits})


def write_split_table(found: LabelledSet, url: str) -> None:
    """Publishes a set's table. Paths are relative to the table where it lies in the set's folder or
    above it, else absolute."""
    columns = ["path", "key", "label", "split", "group"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(PREFIX + split for split in found.splits)])
    for file in found.files:
        parts = ["" if part is None else part for part in file.parts]
        path = _path_from(url, found.folder, file.path)
        writer.writerow([path, key_of(file.path), file.label, parts[0], file.group, *parts])
    storage.publish_bytes(url, text.getvalue().encode())


def _path_from(url: str, folder: str, path: str) -> str:
    filesystem, root = storage.locate(folder)
    own_filesystem, table = storage.locate(url)
    base = posixpath.dirname(table)
    inside = root.rstrip("/") == base or root.startswith(base.rstrip("/") + "/")
    if type(filesystem) is type(own_filesystem) and inside:
        return posixpath.relpath(posixpath.join(root, path), base)
    absolute = posixpath.join(root, path)
    return absolute if storage.local_path(folder) else str(filesystem.unstrip_protocol(absolute))


def read_split_table(url: str) -> SplitTable:
    """Reads a csv as described above; videos without a label are left out.

    Where no column `split_…` is there, `split` is the only split; other words than `train` and
    `test` are neither. Raises UsageError for a table without these columns, a key given twice, or a
    split that lacks a part.
    """
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except FileNotFoundError as err:
        raise UsageError(f"{url}: no such file") from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"{url}: not a csv table: {err}") from err
    present = set(rows[0] if rows else ())
    if not {"key", "label"} <= present:
        raise UsageError(f"{url}: no rows, or no columns `key` and `label`")
    splits = [name for name in rows[0] if name.startswith(PREFIX)] or ["split"]
    if not set(splits) <= present:
        raise UsageError(f"{url}: no column `split`, nor `split_1` and so on")
    return _table(url, rows, splits)


def dataset_splits(dataset: str) -> SplitTable:
    """The labels and the one split that a dataset holds itself. Raises as `read_split_table`."""
    rows = [
        {name: row[name] or "" for name in ("key", "label", "split")}
        for row in read_all_rows(dataset)
    ]
    return _table(dataset, rows, ["split"])


def _table(url: str, rows: Sequence[Mapping[str, str]], splits: Sequence[str]) -> SplitTable:
    labelled = [row for row in rows if row["label"]]
    if not labelled:
        raise UsageError(
            f"{url}: no video has a label; labels and splits come from the source list's columns "
            "`label` and `split`, or from a table of splits"
        )
    keys = tuple(row["key"] for row in labelled)
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise UsageError(f"{url}: key {twice!r} is given twice")
    parts = {
        name.removeprefix(PREFIX): np.array([row[name] or "" for row in labelled])
        for name in splits
    }
    for name, part_V in parts.items():
        absent = [part for part in PARTS if not (part_V == part).any()]
        if absent:
            raise UsageError(
                f"{url}: column of split {name}: no labelled video is in {absent[0]!r}"
            )
    groups = [row.get("group") or key for row, key in zip(labelled, keys, strict=True)]
    return SplitTable(keys, np.array([row["label"] for row in labelled]), np.array(groups), parts)
