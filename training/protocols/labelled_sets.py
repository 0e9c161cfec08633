"""Published sets of labelled videos and sounds, in their own folders and lists.

Lists and media are found wherever they lie below a folder, by the names that their authors gave
them: archives unpack into different places on every machine.

    ucf101     CLASS/v_CLASS_g01_c01.avi · trainlist01.txt testlist01.txt … 03
    hmdb51     CLASS/NAME.avi · CLASS_test_split1.txt … 3: a line is `NAME.avi 0|1|2`
    esc50      NAME.wav · esc50.csv with the columns filename, fold, category (src_file)
    dcase2014  scenes_stereo/CLASS01.wav to learn from, scenes_stereo_testset/CLASS01.wav to test;
               or, as later challenges publish, fold1_train.txt and fold1_evaluate.txt …, whose
               lines are `PATH<tab>CLASS`
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from extractors.errors import UsageError
from pipeline import storage

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class LabelledFile:
    """One video or sound."""

    path: str
    """Below the set's folder."""
    label: str
    parts: tuple[Part | None, ...]
    """Its place in each split; None where the split leaves it out."""
    group: str = ""
    """What it was cut from, where the set says so: files of one recording are too alike to be
    apart when a classifier's settings are chosen."""


@dataclass(frozen=True)
class LabelledSet:
    """A published set as it lies in a folder."""

    folder: str
    splits: tuple[str, ...]
    """Names of the splits or folds, '1' and so on."""
    files: tuple[LabelledFile, ...]
    """By path."""
    missing: tuple[str, ...]
    """What the lists name and the folder does not hold."""


@dataclass
class _Entry:
    """What the lists say of a file."""

    label: str
    parts: dict[str, Part]
    """By split."""
    group: str = ""


Entries = dict[str, _Entry]
"""By the end of the file's path: `CLASS/NAME.avi`, or its name alone."""


def read_labelled_set(name: str, folder: str) -> LabelledSet:
    """A set of that name (see `READERS`) below a local folder or a URL.

    Raises UsageError for an unknown name, a folder without the lists or without any file that
    they name, a name that fits two files, and a line that is not of the set's format.
    """
    if name not in READERS:
        raise UsageError(f"{name}: no such set; there are: {', '.join(READERS)}")
    below = _Below(folder)
    entries = READERS[name](below)
    splits = tuple(sorted({split for entry in entries.values() for split in entry.parts}))
    files, missing = [], []
    for tail, entry in entries.items():
        path = below.find(tail)
        if path is None:
            missing.append(tail)
            continue
        parts = tuple(entry.parts.get(split) for split in splits)
        files.append(LabelledFile(path, entry.label, parts, entry.group))
    if not files:
        raise UsageError(
            f"{folder}: has lists of {name}, but none of the {len(missing)} files that they name, "
            f"as {missing[0]}"
        )
    return LabelledSet(folder, splits, tuple(sorted(files, key=_path)), tuple(sorted(missing)))


def _path(file: LabelledFile) -> str:
    return file.path


class _Below:
    """The files below a folder, by name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        filesystem, root = storage.locate(folder)
        prefix = root.rstrip("/") + "/"
        with storage.reaching(folder):
            found = filesystem.find(root) if filesystem.isdir(root) else []
        if not found:
            raise UsageError(f"{folder}: no such folder, or nothing in it")
        self.paths = sorted(path.removeprefix(prefix) for path in found)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            self._by_name[path.rpartition("/")[2]].append(path)

    def find(self, tail: str) -> str | None:
        """The only path that ends so."""
        named = self._by_name.get(tail.rpartition("/")[2], [])
        fitting = [path for path in named if f"/{path}".endswith(f"/{tail}")]
        if len(fitting) > 1:
            raise UsageError(
                f"{self.folder}: {tail} is there twice, as {fitting[0]} and {fitting[1]}; leave "
                "one copy below this folder"
            )
        return fitting[0] if fitting else None

    def matching(self, pattern: str) -> dict[str, re.Match[str]]:
        """Files whose name fits, by path. Raises UsageError where two of one name are there."""
        found = {}
        for name in sorted(self._by_name):
            match = re.fullmatch(pattern, name)
            path = self.find(name) if match else None
            if match and path:
                found[path] = match
        return found

    def text(self, path: str) -> str:
        return storage.read_bytes(storage.join(self.folder, path)).decode("utf-8-sig")

    def lines(self, path: str) -> Iterator[tuple[str, str]]:
        """(where, line) of the lines that are not empty."""
        for number, line in enumerate(self.text(path).splitlines(), 1):
            if line.strip():
                yield f"{storage.join(self.folder, path)}, line {number}", line.strip()

    def must_have(self, found: Mapping[str, object], wanted: str) -> None:
        if not found:
            raise UsageError(f"{self.folder}: no {wanted} in it or below")


def _put(entries: Entries, tail: str, label: str, split: str, part: Part | None, at: str) -> _Entry:
    """Notes a file's place in a split. Raises UsageError where it has another there already."""
    entry = entries.setdefault(tail, _Entry(label, {}))
    before = entry.parts.get(split)
    if before is not None and before != part:
        raise UsageError(f"{at}: {tail} is to be {part}, it was {before} in the same split before")
    if part is not None:
        entry.parts[split] = part
    return entry


def _read_ucf101(below: _Below) -> Entries:
    """Lines `CLASS/NAME.avi`, in the training lists with the class's number behind; `_g08` in a
    name is the recording that it was cut from."""
    lists = below.matching(r"(train|test)list(\d+)\.txt")
    below.must_have(lists, "trainlist01.txt, testlist01.txt (ucfTrainTestlist)")
    entries: Entries = {}
    for path, match in lists.items():
        part: Part = "train" if match[1] == "train" else "test"
        for at, line in below.lines(path):
            tail = line.split()[0]
            label, slash, name = tail.partition("/")
            if not slash or not name:
                raise UsageError(f"{at}: {line!r}: wanted is CLASS/NAME.avi")
            entry = _put(entries, tail, label, str(int(match[2])), part, at)
            source = re.search(r"_g(\d+)_", name)
            entry.group = f"{label} {source[1]}" if source else ""
    return entries


def _read_hmdb51(below: _Below) -> Entries:
    """1 is training, 2 is testing, 0 is neither (the splits' readme)."""
    lists = below.matching(r"(.+)_test_split(\d+)\.txt")
    below.must_have(lists, "CLASS_test_split1.txt (testTrainMulti_7030_splits)")
    meaning: dict[str, Part | None] = {"0": None, "1": "train", "2": "test"}
    entries: Entries = {}
    for path, match in lists.items():
        for at, line in below.lines(path):
            name, _, number = line.rpartition(" ")
            if number not in meaning or not name.strip():
                raise UsageError(f"{at}: {line!r}: wanted is a name and 0, 1 or 2")
            _put(entries, f"{match[1]}/{name.strip()}", match[1], match[2], meaning[number], at)
    return entries


def _read_esc50(below: _Below) -> Entries:
    """Fold k is the test part of split k, and a training part of the others."""
    tables = below.matching(r"esc50\.csv")
    below.must_have(tables, "esc50.csv (meta)")
    (path,) = tables
    rows = list(csv.DictReader(io.StringIO(below.text(path))))
    url = storage.join(below.folder, path)
    absent = {"filename", "fold", "category"} - set(rows[0] if rows else ())
    if absent:
        raise UsageError(f"{url}: no rows, or no columns {', '.join(sorted(absent))}")
    folds = sorted({row["fold"] for row in rows})
    entries: Entries = {}
    for row in rows:
        for fold in folds:
            part: Part = "test" if row["fold"] == fold else "train"
            entry = _put(entries, row["filename"], row["category"], fold, part, url)
        entry.group = row.get("src_file") or ""
    return entries


def _read_dcase2014(below: _Below) -> Entries:
    lists = below.matching(r"fold(\d+)_(train|evaluate)\.txt")
    return _read_fold_lists(below, lists) if lists else _read_scene_folders(below)


def _read_fold_lists(below: _Below, lists: Mapping[str, re.Match[str]]) -> Entries:
    entries: Entries = {}
    for path, match in lists.items():
        part: Part = "train" if match[2] == "train" else "test"
        for at, line in below.lines(path):
            tail, tab, label = line.partition("\t")
            if not tab or not label.strip():
                raise UsageError(f"{at}: {line!r}: wanted is a path, a tab and a class")
            _put(entries, tail.strip(), label.strip(), match[1], part, at)
    return entries


def _read_scene_folders(below: _Below) -> Entries:
    """The public set, and the one that was private during the challenge."""
    folders: dict[str, Part] = {"scenes_stereo": "train", "scenes_stereo_testset": "test"}
    entries: Entries = {}
    for path in below.paths:
        folder, _, name = path.rpartition("/")
        part = folders.get(folder.rpartition("/")[2])
        named = re.fullmatch(r"(\D+)\d+\.wav", name)
        if part and named:
            tail = f"{folder.rpartition('/')[2]}/{name}"
            _put(entries, tail, named[1], "1", part, path)
    below.must_have(
        entries, "scenes_stereo/CLASS01.wav, scenes_stereo_testset/CLASS01.wav or fold1_train.txt"
    )
    return entries


READERS: dict[str, Callable[[_Below], Entries]] = {
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
    "esc50": _read_esc50,
    "dcase2014": _read_dcase2014,
}


def count_parts(found: LabelledSet) -> dict[str, dict[Part, int]]:
    """How many files each split trains on and tests."""
    return {
        name: {part: _count(found, number, part) for part in PARTS}
        for number, name in enumerate(found.splits)
    }


def _count(found: LabelledSet, split: int, part: Part) -> int:
    return sum(file.parts[split] == part for file in found.files)
