"""Files of strangers: received to a bounded temporary file."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request


@contextlib.asynccontextmanager
async def received(request: Request, most_bytes: int, seconds: float) -> AsyncIterator[str]:
    """Yields the path of a temporary file with the body of a request; it is gone afterwards.

    Raises HTTPException: 413 for more than `most_bytes`, 408 where it does not arrive in time, 422
    for none at all, 400 where the sender went away. The file's name is ours, never the sender's.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise HTTPException(413, _too_large(most_bytes))
    with tempfile.NamedTemporaryFile(prefix="upload-") as file:
        taken = 0
        try:
            async with asyncio.timeout(seconds):
                async for piece in request.stream():
                    taken += len(piece)
                    if taken > most_bytes:
                        raise HTTPException(413, _too_large(most_bytes))
                    file.write(piece)
        except TimeoutError as err:
            raise HTTPException(408, f"the file did not arrive within {seconds:g} s") from err
        except ClientDisconnect as err:
            raise HTTPException(400, "the file was cut off") from err
        if not taken:
            raise HTTPException(422, "send the file as the body of the request; it was empty")
        file.flush()
        yield file.name


def _too_large(most_bytes: int) -> str:
    return f"the file is larger than {most_bytes / 2**20:.0f} MB"
