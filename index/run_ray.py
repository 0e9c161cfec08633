"""Work on shards on a Ray cluster: actors that load once, one task a shard.

`RAY_ADDRESS` or `ray job submit` decide which cluster; without one, a local one starts. What the
work reads and writes must be reachable from every node.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util import ActorPool

from extractors.errors import PipelineError
from index.run_local import Item, Result, Setup
from pipeline.cluster import aborting_on_ray_errors, joined_cluster


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
    with joined_cluster(count * cpus), aborting_on_ray_errors():
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
        finally:
            for actor in actors:
                ray.kill(actor)
