"""Every error this project raises on purpose.

PipelineError            one line for the user, never a traceback (unless --debug)
├── UsageError           wrong usage or configuration: exit code 2
├── AbortError           the run cannot go on: exit code 1
│   └── DamagedError     one of our own files is not what was written
└── VideoError           one video failed, the run goes on: a row with a reason
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a video failed: the `reason` column of a shard's parquet."""

    NOT_FOUND = "not_found"  # the file is gone or cannot be reached
    UNREADABLE = "unreadable"  # permissions, or not a regular file
    EMPTY_FILE = "empty_file"
    NOT_A_VIDEO = "not_a_video"  # ffmpeg knows no such container
    REFUSED = "refused"  # a playlist that points outside its own file
    NO_STREAMS = "no_streams"  # a container without picture or sound
    ZERO_FRAMES = "zero_frames"  # streams are declared, nothing decodes
    TRUNCATED = "truncated"  # less than the container declares, or its index is missing
    DECODE_ERROR = "decode_error"  # ffmpeg met damage
    TIMEOUT = "timeout"  # the deadline passed
    TOO_LONG = "too_long"  # longer than decode.max_seconds
    TOO_LARGE = "too_large"  # more pixels a frame than decode.max_pixels
    BAD_CAPTIONS = "bad_captions"  # a caption file that cannot be parsed
    EXTRACTOR_ERROR = "extractor_error"  # an extractor raised
    CRASHED_WORKER = "crashed_worker"  # a worker process died at it
    QUARANTINED = "quarantined"  # put aside by hand: `pipeline quarantine`


class PipelineError(Exception):
    """The root: its text is complete and fit for a user's eyes."""


class UsageError(PipelineError):
    """Wrong usage or configuration (exit code 2)."""


class AbortError(PipelineError):
    """The run cannot go on (exit code 1); what was finished stays."""


class DamagedError(AbortError):
    """A file that this program wrote is not what it wrote. Names the file; who can do without it
    catches this and says so."""


class VideoError(PipelineError):
    """One video failed. Becomes a row of its shard's parquet, never a dead run."""

    def __init__(self, reason: Reason, stage: str, message: str) -> None:
        super().__init__(reason, stage, message)  # all three, so that it survives pickling
        self.reason = reason
        self.stage = stage
        self.message = message

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}: {self.message}"
