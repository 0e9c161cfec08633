"""Files of strangers: received to a bounded temporary file."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

PIECE = 2**20
"""Bytes that are held before they are written."""


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
        try:
            async with asyncio.timeout(seconds):
                taken = await _write(request, file, most_bytes)
        except TimeoutError as err:
            raise HTTPException(408, f"the file did not arrive within {seconds:g} s") from err
        except ClientDisconnect as err:
            raise HTTPException(400, "the file was cut off") from err
        if not taken:
            raise HTTPException(422, "send the file as the body of the request; it was empty")
        yield file.name


async def _write(request: Request, file: IO[bytes], most_bytes: int) -> int:
    """Writes the body on another thread than the event loop's, and gives its bytes."""
    taken, held = 0, bytearray()
    async for piece in request.stream():
        taken += len(piece)
        if taken > most_bytes:
            raise HTTPException(413, _too_large(most_bytes))
        held += piece
        if len(held) >= PIECE:
            await asyncio.to_thread(file.write, bytes(held))
            held.clear()
    await asyncio.to_thread(file.write, bytes(held))
    await asyncio.to_thread(file.flush)
    return taken


def _too_large(most_bytes: int) -> str:
    return f"the file is larger than {most_bytes / 2**20:.0f} MB"
