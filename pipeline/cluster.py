"""A Ray cluster, joined or started: what every stage that runs on Ray shares.

Imports Ray alone: a worker of a stage without networks need not load torch, which takes seconds.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

import ray
from ray.exceptions import RayError

from extractors.errors import AbortError

CONNECT_SECONDS = 20.0
"""How long the cluster of RAY_ADDRESS may take to answer."""


@contextlib.contextmanager
def aborting_on_ray_errors() -> Iterator[None]:
    """What Ray gives up on becomes one line."""
    try:
        yield
    except RayError as err:
        cause = str(getattr(err, "cause", None) or err).strip().splitlines()
        raise AbortError(f"Ray: {cause[-1] if cause else type(err).__name__}") from err


def _check_address(address: str) -> None:
    """Raises AbortError where nobody listens at a HOST:PORT: Ray would try for minutes."""
    name, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in name:  # 'auto', 'ray://…'
        return
    try:
        socket.create_connection((name, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as err:
        raise AbortError(f"RAY_ADDRESS={address}: no cluster answers there ({err})") from err


@contextlib.contextmanager
def joined_cluster(cpus: int) -> Iterator[bool]:
    """Joins the cluster of RAY_ADDRESS, of the job, or that is joined already; else starts one of
    `cpus` cores here and ends it. Gives whether it is one of ours alone.

    Raises AbortError where there is no cluster at RAY_ADDRESS. SIGTERM stays as it was.
    """
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield False
        return
    address = os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _check_address(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            num_cpus=None if address else cpus,
            include_dashboard=None if address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except ConnectionError as err:
        raise AbortError(f"RAY_ADDRESS={address}: no cluster answers there") from err
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would exit past our clean-up
    try:
        yield address is None
    finally:
        ray.shutdown()
