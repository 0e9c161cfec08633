"""Work on shards on this machine: in this process, or in several."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from extractors.errors import AbortError

Item = TypeVar("Item")
Result = TypeVar("Result")
Setup = Callable[[], Callable[[Item], Result]]
"""Loads what the work needs, once a worker, and gives the work on one item. Can be pickled."""

_SPAWN = multiprocessing.get_context("spawn")  # forked torch, CUDA and OpenMP do not work
_worker: dict[str, Any] = {}
"""Of a worker process: its set-up, and the work once it is loaded."""


def run_local(
    setup: Setup[Item, Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result]:
    """Works on every item, giving results as they come.

    Raises what the work raises, and AbortError where a worker process died. On the way out,
    whatever the reason, all processes are stopped.
    """
    if min(num_workers, len(items)) <= 1:
        yield from map(setup(), items) if items else ()
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(num_workers, len(items)), _SPAWN, initializer=_initialise, initargs=(setup,)
    )
    try:
        for future in as_completed([pool.submit(_work, item) for item in items]):
            yield future.result()
    except BrokenProcessPool as err:
        raise AbortError(
            "a worker process died (out of memory, or killed); finished shards are kept: run the "
            "same command again, with fewer --workers if memory is short"
        ) from err
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # what is unfinished is not waited for
        pool.shutdown(cancel_futures=True)


def _initialise(setup: Setup[Item, Result]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver decides
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    _worker["setup"] = setup


def _work(item: Any) -> Any:
    if "work" not in _worker:
        _worker["work"] = _worker["setup"]()
    return _worker["work"](item)


def _stop_with_parent() -> None:
    """A driver that was killed cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
