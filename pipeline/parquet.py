"""Reading the parquet files of a dataset; one that is damaged is named."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from extractors.errors import DamagedError
from pipeline import storage


@contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """A parquet wherever it lies, for reading by columns and batches.

    Raises FileNotFoundError; DamagedError for what is no parquet, inside the block too.
    """
    path = storage.local_path(url)
    source = path or pa.BufferReader(storage.read_bytes(url))  # of a bucket in one request
    try:
        with pq.ParquetFile(source) as stored:
            yield stored
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as err:  # pyarrow says both of damaged bytes
        raise DamagedError(f"{url}: cannot be read: {str(err).splitlines()[0]}") from err


def read_columns(url: str, columns: Sequence[str]) -> pa.Table:
    """Columns of one parquet. Raises as `open_parquet` does."""
    with open_parquet(url) as stored:
        return stored.read(columns=list(columns), use_threads=False)
