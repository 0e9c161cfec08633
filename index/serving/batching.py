"""Work that blocks, off the event loop: bounded, timed, and where it can be, in batches."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from extractors.errors import PipelineError

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(PipelineError):
    """The queue is full, or the answer did not come in time: 503, try again later."""


class Collector(Generic[Item, Result]):
    """Turns concurrent calls into batches for one thread.

    The first item waits `window` seconds for company; while a batch is worked on, the next one
    gathers. Start it inside the event loop, and close it there.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result | PipelineError]],
        *,
        window: float = 0.003,
        largest: int = 64,
        waiting: int = 512,
        timeout: float = 10.0,
    ) -> None:
        self._work = work
        self._window = window
        self._largest = largest
        self._timeout = timeout
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Result]]] = asyncio.Queue(waiting)
        self._thread = ThreadPoolExecutor(1, "search")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items in no batch yet."""
        return self._queue.qsize()

    def start(self) -> None:
        """Begins to collect."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stops; what waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        while not self._queue.empty():
            self._queue.get_nowait()[1].cancel()
        self._thread.shutdown(wait=True)

    async def ask(self, item: Item) -> Result:
        """The result of one item. Raises OverloadedError, or the PipelineError that it came to."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((item, answer))
        except asyncio.QueueFull as err:
            raise OverloadedError("too many searches are waiting; try again in a moment") from err
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError as err:
            raise OverloadedError(f"no answer within {self._timeout:g} s; try again later") from err

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [item for item in await self._gather() if not item[1].done()]
            if not batch:
                continue
            items = [item for item, _ in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._work, items)
            except Exception as err:  # noqa: BLE001  # whatever it is, those who wait must be told
                for _, answer in batch:
                    _settle(answer, err)
                continue
            for (_, answer), result in zip(batch, results, strict=True):
                _settle(answer, result)

    async def _gather(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        batch = [await self._queue.get()]
        if self._queue.empty():
            await asyncio.sleep(self._window)
        while len(batch) < self._largest and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch


class Pool:
    """A few threads with a bounded queue before them."""

    def __init__(self, what: str, *, threads: int, waiting: int, timeout: float) -> None:
        self._what = what
        self._places = threads + waiting
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(threads, what)
        self.taken = 0
        """Places of calls that wait, run, or prepare to."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` gives. Raises OverloadedError, and what `work` raises."""
        with self.place() as place:
            return await place.run(work)

    @contextlib.contextmanager
    def place(self) -> Iterator["Place"]:
        """A place in the queue, for one call of `Place.run` when what it needs is there; given
        back at the end, or when work that was given up has ended. Raises OverloadedError."""
        if self.taken >= self._places:
            raise OverloadedError(f"too many {self._what} are waiting; try again in a moment")
        self.taken += 1
        place = Place(self._threads, self._timeout)
        try:
            yield place
        finally:
            loop = asyncio.get_running_loop()
            place.when_done(lambda: _later(loop, self._free))

    def close(self) -> None:
        """Waits for what runs; what has not begun is dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _free(self) -> None:
        self.taken -= 1


class Place:
    """A place of a Pool."""

    def __init__(self, threads: ThreadPoolExecutor, timeout: float) -> None:
        self._threads = threads
        self._timeout = timeout
        self._future: Future[Any] | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, on a thread of the pool. Raises OverloadedError where it is not done
        in time, and what `work` raises."""
        future = self._threads.submit(work)
        self._future = future
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError as err:
            future.cancel()
            raise OverloadedError(f"not done within {self._timeout:g} s; try again later") from err

    def when_done(self, call: Callable[[], None]) -> None:
        """Calls when nothing runs here, from any thread."""
        if self._future is None:
            call()
        else:
            self._future.add_done_callback(lambda _done: call())


def _later(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and the pool with it
        loop.call_soon_threadsafe(call)


def _settle(answer: "asyncio.Future[Result]", result: Result | Exception) -> None:
    if answer.done():  # it stopped waiting
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
