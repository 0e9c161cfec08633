"""A local copy of a video or of its captions; what cannot be fetched is a failure of the video."""

import contextlib
import errno
from collections.abc import Iterator

from extractors.errors import Reason, UsageError, VideoError
from pipeline import storage


@contextlib.contextmanager
def fetched(url: str, gone: Reason = Reason.NOT_FOUND, stage: str = "fetch") -> Iterator[str]:
    """A local path of a file. Raises VideoError where it cannot be fetched (`gone` where there is
    none), but a full disk of ours is no fault of the video's."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(storage.local_copy(url))
        except FileNotFoundError as err:
            raise VideoError(gone, stage, f"{url}: no such file") from err
        except UsageError as err:  # a protocol that is unknown or has no driver here
            raise VideoError(Reason.UNREADABLE, stage, str(err)) from err
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise VideoError(Reason.UNREADABLE, stage, f"{url}: {err}") from err
        yield path
