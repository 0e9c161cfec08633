"""What work on an index leaves behind when it is killed.

To be called by whoever holds the index's lease.
"""

from pipeline import storage


def sweep_temporaries(index: str) -> None:
    """Removes temporaries of files that were never published."""
    for folder in (index, storage.join(index, "embeddings")):
        storage.sweep(folder)


def remove_parts(index: str) -> None:
    """Removes the parts of a build in pieces, from which nothing goes on once the index is
    published."""
    partial = storage.join(index, "partial")
    if storage.exists(partial):
        filesystem, path = storage.locate(partial)
        filesystem.rm(path, recursive=True)
