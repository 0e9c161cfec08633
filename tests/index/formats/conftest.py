"""Vectors as other programs leave them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.formats.exporting import export_embeddings
from index.formats.layouts import Format
from tests.index.conftest import Corpus

WIDTH = 8


class Foreign:
    """A folder in clip-retrieval's layout, as its own inference writes it: no column of ours."""

    def __init__(self, folder: Path, rows: tuple[int, ...] = (5, 3)) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(5)
        self.images, self.texts = [], []
        for number, count in enumerate(rows):
            self.images.append(self.array("img_emb", number, count, np.float16))
            self.texts.append(self.array("text_emb", number, count, np.float16))
            names = [f"photos/{number}/{row} of them.jpg" for row in range(count)]
            self.table(number, {"image_path": names, "caption": [f"c{r}" for r in range(count)]})

    def array(self, name: str, number: int, count: int, dtype: type = np.float32) -> np.ndarray:
        made = self.rng.standard_normal((count, WIDTH)).astype(dtype)
        self.write(name, number, made)
        return made

    def write(self, name: str, number: int, array: np.ndarray) -> Path:
        path = self.folder / name / f"{name}_{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
        return path

    def table(self, number: int, columns: dict) -> Path:
        path = self.folder / "metadata" / f"metadata_{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return path


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    return Foreign(tmp_path / "foreign")


@pytest.fixture
def exported(corpus: Corpus, tmp_path: Path):
    """Builds an index and exports it; gives the folder."""

    def export(fmt: Format, index: str | None = None) -> Path:
        if index is None:
            from index.config import IndexConfig

            corpus.build(IndexConfig())
        folder = tmp_path / fmt
        export_embeddings(index or corpus.output, str(folder), fmt)
        return folder

    return export
