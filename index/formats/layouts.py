"""The layouts in which embeddings go out and come in.

clip-retrieval   FOLDER/NAME_0.npy (rows, D), a folder each of img_emb, text_emb, …, and
                 metadata/metadata_0.parquet: row i of every file of one number is the same clip.
                 What clip-retrieval's inference writes and autofaiss reads.
parquet          000000.parquet, a column `MODALITY_embedding` each, null where a clip has none
huggingface      the same as data/train-00000-of-00001.parquet with a README.md, which
                 `datasets.load_dataset` opens; read also as `Dataset.save_to_disk` writes it
"""

import re
from typing import Literal, get_args

from extractors.errors import UsageError

Format = Literal["clip-retrieval", "parquet", "huggingface"]
FORMATS: tuple[Format, ...] = get_args(Format)

NUMPY_FOLDERS = {"img_emb": "sum", "text_emb": "text", "video_emb": "video", "audio_emb": "audio"}
"""Of clip-retrieval's layout, to what of a clip we write there. clip-retrieval knows the first two:
its 'image' is the vector that this index searches."""
METADATA = "metadata"
ALIASES = {"uri": "image_path", "text": "caption"}
"""Our columns to clip-retrieval's."""
PRESENT = "has_{}"
"""Column of its metadata that says whether a clip has a modality: a .npy knows no null."""

LEDGER = ".export"
"""Folder of an export that says what it is of; `finished.json` in it is written last."""


def check_format(name: str) -> Format:
    """The format of that name. Raises UsageError."""
    for known in FORMATS:
        if name == known:
            return known
    raise UsageError(f"--format {name}: allowed are {', '.join(FORMATS)}")


def numpy_name(folder: str, part: int, parts: int) -> str:
    """`img_emb/img_emb_07.npy`: zero-padded to the number of parts, as clip-retrieval does, since
    its readers sort by name."""
    return f"{folder}/{folder}_{padded(part, parts)}.npy"


def metadata_name(part: int, parts: int) -> str:
    """`metadata/metadata_07.parquet`."""
    return f"{METADATA}/{METADATA}_{padded(part, parts)}.parquet"


def padded(part: int, parts: int) -> str:
    """A part's number, as wide as the last one's."""
    return f"{part:0{len(str(max(parts - 1, 0)))}d}"


def table_name(fmt: Format, part: int, parts: int) -> str:
    """The parquet of one part, below the output."""
    if fmt == "huggingface":
        return f"data/train-{part:05d}-of-{parts:05d}.parquet"
    return f"{part:06d}.parquet"


def in_order(names: list[str]) -> list[str]:
    """Names sorted with their numbers as numbers: part_2 before part_10."""
    return sorted(names, key=lambda name: [(word, int(n or 0)) for word, n in _pieces(name)])


def _pieces(name: str) -> list[tuple[str, str]]:
    return re.findall(r"(\D*)(\d*)", name)
