"""What a server takes of strangers."""

from dataclasses import dataclass

HITS = 100
"""Most results of one search."""
TERMS = 16
"""Most terms of one query."""
TEXT_CHARACTERS = 1000
"""Of one text, id or condition."""
NAME_CHARACTERS = 100
"""Of a language or a span of time."""
VECTOR_NUMBERS = 4096
"""Of one vector."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; what is over them is refused with a sentence."""

    upload_bytes: int = 200 * 2**20
    """Of one file."""
    file_seconds: float = 600.0
    """Length of one file."""
    waiting_searches: int = 512
    """Searches that wait for the next batch; more are answered with 503."""
    waiting_files: int = 4
    """Files that are received or wait to be embedded, besides the one that is embedded."""
    waiting_media: int = 256
    """Thumbnails and cuts that wait."""
    search_timeout: float = 10.0
    """Seconds that a search may wait and take."""
    file_timeout: float = 120.0
    """Seconds that a file may take to arrive, and then to be embedded."""
    media_timeout: float = 40.0
    """Seconds that a thumbnail or a cut may take."""
    body_bytes: int = 2**16
    """Of any request but a file."""
    body_timeout: float = 20.0
    """Seconds that it may take to arrive."""
    stored_files: int = 1000
    """Embeddings of uploaded files that are kept; the oldest go."""

    @property
    def open_requests(self) -> int:
        """Requests that are answered at a time, of all kinds."""
        return self.waiting_searches + self.waiting_media + self.waiting_files
