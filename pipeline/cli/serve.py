"""`pipeline serve`."""

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extractors.errors import UsageError
from pipeline.cli import options, show

if TYPE_CHECKING:
    from index.serving.limits import Limits

TOKEN_VARIABLE = "PIPELINE_SERVE_TOKEN"  # noqa: S105  # the variable's name
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    index: options.IndexArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free one.", min=0, max=65535)] = 8080,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File with a token that requests must carry; else {TOKEN_VARIABLE}.",
            dir_okay=False,
        ),
    ] = None,
    upload_mb: Annotated[int, typer.Option(help="Megabytes of one uploaded file.", min=1)] = 200,
    upload_seconds: Annotated[
        float, typer.Option(help="Length of one uploaded file.", min=1)
    ] = 600,
    waiting: Annotated[int, typer.Option(help="Searches that may wait.", min=1)] = 512,
    timeout: Annotated[float, typer.Option(help="Seconds a search may take.", min=0.1)] = 10,
    device: options.Device = "auto",
    debug: options.Debug = False,
) -> None:
    """An index over HTTP: a page to search it at /, its API at /docs. Ends at SIGTERM."""
    from index.serving.limits import Limits

    limits = Limits(
        upload_bytes=upload_mb * 2**20,
        file_seconds=upload_seconds,
        waiting_searches=waiting,
        search_timeout=timeout,
    )
    _serve(index, host, port, read_token(token_file), limits, device)


def read_token(file: Path | None) -> str | None:
    """The token of a file, else of the environment; None for none. Raises UsageError."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(f"--token-file {file}: {err}") from err
    if not token:
        raise UsageError(f"--token-file {file}: empty")
    return token


def _serve(
    index: str, host: str, port: int, token: str | None, limits: "Limits", device: str
) -> None:
    import uvicorn

    from index.search import open_index
    from index.serving.app import create_app
    from index.serving.guard import LOCAL_HOSTS, Metrics
    from index.serving.service import Service

    metrics = Metrics()
    service = Service(
        open_index(index), options.choose_device(device), limits, metrics.batch.observe
    )
    for line in service.load():
        show.note(line)
    loopback = host in LOOPBACK
    if not loopback and token is None:
        show.note(f"--host {host}: open to whoever can reach it; --token-file asks for a token")
    app = create_app(service, metrics, token=token, hosts=LOCAL_HOSTS if loopback else None)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=15,
        timeout_keep_alive=30,
        limit_concurrency=2 * limits.open_requests,  # connections, idle ones too
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    socket = config.bind_socket()
    shown = f"[{host}]" if ":" in host else host
    show.note(f"serving {index} at http://{shown}:{socket.getsockname()[1]}/")
    # uvicorn ends what is under way, then raises the signal again: an end that was asked for
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    try:
        uvicorn.Server(config).run(sockets=[socket])
    finally:
        service.close()
    show.note("ended")
