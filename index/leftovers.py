"""What work on an index leaves behind when it is killed."""

from pipeline import storage


def sweep_index(index: str, *, parts: bool) -> None:
    """Removes temporaries of files that were never published; with `parts`, also those of a build
    in pieces, from which only another such build would go on.

    To be called by whoever holds the index's lease.
    """
    for folder in (index, storage.join(index, "embeddings")):
        storage.sweep(folder)
    partial = storage.join(index, "partial")
    if parts and storage.exists(partial):
        filesystem, path = storage.locate(partial)
        filesystem.rm(path, recursive=True)
