"""Work on shards on a Ray cluster: actors that load once, one task a shard.

`RAY_ADDRESS` or `ray job submit` decide which cluster; without one, a local one starts. What the
work reads and writes must be reachable from every node.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import ActorPool

from extractors.errors import AbortError, PipelineError
from index.run_local import Item, Result, Setup


class _Actor:
    """One worker on the cluster; loads with its first item."""

    def __init__(self, setup: Setup[Any, Any]) -> None:
        self._setup = setup
        self._work: Any = None

    def work(self, item: Any) -> tuple[Any, Exception | None]:
        """The result, or why the run cannot go on: Ray would wrap an exception."""
        try:
            if self._work is None:
                self._work = self._setup()
            return self._work(item), None
        except (PipelineError, OSError) as err:
            return None, err


def run_ray(
    setup: Setup[Item, Result],
    items: Sequence[Item],
    num_workers: int,
    *,
    cpus: int = 1,
    gpus: float = 0,
) -> Iterator[Result]:
    """Works on every item, giving results as they come; `cpus` and `gpus` are a worker's.

    Raises what the work raises, and AbortError where Ray gives up. An actor that dies is started
    again and its item is worked on from its beginning: what was not published left nothing.
    """
    count = min(num_workers, len(items))
    if count == 0:
        return
    with _cluster(count * cpus):
        remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=2, max_task_retries=2)(
            _Actor
        )
        actors = [remote.remote(setup) for _ in range(count)]
        pool: Any = ActorPool(actors)
        try:
            results: Any = pool.map_unordered(
                lambda actor, item: actor.work.remote(item), list(items)
            )
            for result, error in results:
                if error is not None:
                    raise error
                yield result
        except RayError as err:
            cause = str(getattr(err, "cause", None) or err).strip().splitlines()
            raise AbortError(f"Ray: {cause[-1] if cause else type(err).__name__}") from err
        finally:
            for actor in actors:
                ray.kill(actor)


@contextlib.contextmanager
def _cluster(cpus: int) -> Iterator[None]:
    """Joins the cluster of RAY_ADDRESS or of the job, else starts one here and ends it."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    on_terminate = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address,
        num_cpus=None if address else cpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would exit past our clean-up
    try:
        yield
    finally:
        ray.shutdown()
