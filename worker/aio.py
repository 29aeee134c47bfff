"""aio: the runtime inside an asyncio service, on a thread of its own.

    async with dspex.aio.open_runtime(app) as rt:
        run = await rt.run("triage", ticket="My invoice is wrong")

Calls go over in batches: what the service asks in a burst wakes trio once, and what
finishes in a burst wakes asyncio once.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from dspex.runtime.engine import Program, Run
from dspex.supervisors import TreeNode
from dspex.worker.app import Runtime
from dspex.worker.application import App, open_app
from dspex.worker.errors import RuntimeClosedError, WrongLoopError
from dspex.worker.event_cursor import EventCursor
from dspex.worker.followed_run import FollowedRun
from dspex.worker.host_pauses import HostPauses
from dspex.worker.open_runtime import LEASE_SECONDS, MAX_RUNNING, KeepText
from dspex.worker.run_record import RunEvent
from dspex.worker.runs import MAX_UNFINISHED
from dspex.worker.trio_thread import Job, TrioThread, awaitable_of, result_of

P = ParamSpec("P")
T = TypeVar("T")

MAX_CALLS: Final = 10_000
DRAIN_SECONDS: Final = 10.0


class AioRuntime:
    """A runtime as one asyncio event loop uses it; made by `open_runtime`.

    Cancelling a call cancels its work in the runtime, and waits for the end of it; one
    that is cancelled again (anyio does so at each await) waits no more, and its work
    ends all the same. A run that a store has accepted is not the call's work: it goes
    on; `stream` and `cancel` end it. The work sees the context variables of the caller.

    Every method raises RuntimeClosedError outside the `async with` block or when the
    runtime has ended, ForkedRuntimeError in a child process, WrongLoopError under
    another event loop, and else what the method of `Runtime` raises.
    """

    def __init__(self, thread: TrioThread[Runtime], *, max_calls: int) -> None:
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(max_calls)
        self._pauses = HostPauses(self._loop)
        self._done: deque[tuple[asyncio.Future[None], Job]] = deque()
        self._is_woken = False

    async def run(
        self,
        program: Program | str,
        /,
        **inputs: Any,  # Any: as the signatures declare
    ) -> Run:
        """Run a program, or the loaded one of that name, and give the finished Run."""
        return await self.run_inputs(program, inputs)

    async def run_inputs(
        self,
        program: Program | str,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
    ) -> Run:
        """Run a program on inputs by name; see `Runtime.run_inputs`."""
        return await self._perform(self._hosted().run_inputs, program, inputs)

    async def stream(
        self,
        program: Program | str,
        /,
        **inputs: Any,  # Any: as the signatures declare
    ) -> AsyncGenerator[RunEvent]:
        """Run a program and give its events as they come; the last tells its end.

        A stream that is closed before its end (`aclose`, or a cancelled task)
        cancels the run, also one that a store has accepted.
        """
        followed = FollowedRun()
        is_begun = is_whole = False
        try:
            async with self._room:
                hosted = self._hosted()
                is_begun = True
                run = await self._perform_anyhow(
                    followed.accept, hosted, program, inputs
                )
            async for event in self.events(run):
                yield event
            is_whole = True
        finally:
            if is_begun and not is_whole and not self._thread.is_forked:
                with suppress(RuntimeClosedError):  # its runs have ended
                    await self._perform_anyhow(followed.withdraw)

    async def submit(
        self,
        program: Program | str,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
        *,
        key: str | None = None,
    ) -> str:
        """Accept a run that goes on by itself, and give its id."""
        return await self.call(submit, program, inputs, key)

    async def result(self, run: str) -> Run:
        """Wait for a run's end and give it; a failed one is given too."""
        return await self._perform(self._hosted().result, run)

    async def cancel(self, run: str) -> None:
        """Cancel a run and wait for its end.

        The run is cancelled also when this call is, which only ends the waiting.
        """
        await self._perform_anyhow(self._hosted().cancel, run)

    async def events(self, run: str, *, after: int = 0) -> AsyncGenerator[RunEvent]:
        """Give a run's events in order, from the one after `after` to its end.

        See `Runtime.events`: the text of steps comes with them.
        """
        cursor = await self.call(read_events, run, after)
        while batch := await self.call(next_batch, cursor):
            for event in batch:
                yield event

    async def tree(self) -> TreeNode:
        """Give a snapshot of the supervision tree."""
        return await self.call(tree)

    async def call(
        self,
        work: Callable[Concatenate[Runtime, P], Awaitable[T]],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run `await work(runtime, ...)` in the runtime's thread and give its result.

        For what has no method here: an actor of your own, by
        `runtime.node.registry`. What it raises is raised here.
        """
        if named:
            return await self._perform(
                call_named, work, self._hosted(), arguments, named
            )
        return await self._perform(work, self._hosted(), *arguments)

    def _hosted(self) -> Runtime:
        self._check()
        return self._thread.hosted

    def _check(self) -> None:
        self._thread.check_usable()
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError

    async def _perform(
        self,
        work: Callable[..., Awaitable[T]],
        *arguments: object,
    ) -> T:
        async with self._room:
            self._check()
            future, job = self._begin(work, arguments)
            try:
                await future
            except asyncio.CancelledError:
                self._thread.cancel(job)
                await self._wait_end(job)
                raise
            finally:
                self._pauses.end()
            result: T = result_of(job)
            return result

    async def _perform_anyhow(
        self,
        work: Callable[..., Awaitable[T]],
        *arguments: object,
    ) -> T:
        """Perform what goes on, and ends, when its caller is cancelled.

        It is on its way before the first await, and waits for no room.
        """
        future, job = self._begin(work, arguments)
        try:
            await future
        finally:
            self._pauses.end()
        result: T = result_of(job)
        return result

    def _begin(
        self, work: Callable[..., Awaitable[T]], arguments: tuple[object, ...]
    ) -> tuple["asyncio.Future[None]", Job]:
        future: asyncio.Future[None] = self._loop.create_future()
        job = Job(work, arguments, partial(self._finished, future))
        self._thread.submit(job)
        self._pauses.begin()
        return future, job

    async def _wait_end(self, job: Job) -> None:
        # The future that was awaited is cancelled; the job tells of its end by
        # another. A second cancellation ends this wait, too.
        ended: asyncio.Future[None] = self._loop.create_future()
        job.finished = partial(self._finished, ended)
        if not job.is_done:
            await ended

    def _finished(self, future: "asyncio.Future[None]", job: Job) -> None:
        """Tell asyncio; called in trio's thread."""
        self._done.append((future, job))
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _deliver(self) -> None:
        self._is_woken = False
        done = self._done
        while done:
            future, _ = done.popleft()
            if not future.done():
                future.set_result(None)


async def submit(
    runtime: Runtime,
    program: Program | str,
    inputs: Mapping[str, Any],  # Any: as the signatures declare
    key: str | None,
) -> str:
    """Accept a run; in the runtime's thread."""
    return await runtime.submit(program, inputs, key=key)


async def read_events(runtime: Runtime, run: str, after: int) -> EventCursor:
    """Give a place in the events of a run; in the runtime's thread."""
    return runtime.read_events(run, after=after)


async def next_batch(_: Runtime, cursor: EventCursor) -> list[RunEvent]:
    """Give the events that are there, at least one unless the run has ended."""
    return await cursor.next()


async def tree(runtime: Runtime) -> TreeNode:
    """Give the supervision tree; in the runtime's thread."""
    return runtime.tree()


async def call_named(
    work: Callable[..., Awaitable[T]],
    runtime: Runtime,
    arguments: tuple[object, ...],
    named: dict[str, object],
) -> T:
    """Call with arguments by name; in the runtime's thread."""
    return await awaitable_of(work, runtime, *arguments, **named)


@asynccontextmanager
async def open_runtime(
    app: App | None = None,
    *,
    store: str | Path | None = None,
    resume: bool = True,
    max_running: int = MAX_RUNNING,
    lease_seconds: float = LEASE_SECONDS,
    max_runs: int = MAX_UNFINISHED,
    keep_text: KeepText = True,
    search_path: Sequence[str | Path] = (),
    max_calls: int = MAX_CALLS,
    drain_timeout: float = DRAIN_SECONDS,
    shutdown_timeout: float = 1.0,
) -> AsyncGenerator[AioRuntime]:
    """Open a runtime for the length of an `async with` block under asyncio.

    Open it in the lifespan of the service, in each worker process, never at import:
    a thread does not follow a fork. With a `store`, a SQLite file or
    `postgresql://...`, runs are accepted when they are on disk, and what a process
    leaves unfinished the next one with this store finishes; `resume`, `max_running`,
    `lease_seconds`, `max_runs`, `keep_text` and `search_path` are as for
    `dspex.open_runtime`. At most `max_calls` calls are in the runtime; further ones
    wait. When the block is left, calls under way have `drain_timeout` seconds to end;
    then they raise RuntimeClosedError. The host keeps its signals.

    Raises:
        DspexError: what kept the runtime from opening, as `open_app` raises it.
    """
    wanted = App() if app is None else app
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    ended: asyncio.Future[None] = loop.create_future()

    def tell(*futures: "asyncio.Future[None]") -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)

    def call_host(*futures: "asyncio.Future[None]") -> None:
        try:
            loop.call_soon_threadsafe(tell, *futures)
        except RuntimeError:
            return  # the loop is closed: the host is gone

    thread = TrioThread(
        lambda: open_app(
            wanted,
            store=store,
            resume=resume,
            max_running=max_running,
            lease_seconds=lease_seconds,
            max_runs=max_runs,
            keep_text=keep_text,
            search_path=search_path,
            shutdown_timeout=shutdown_timeout,
        )
    )
    thread.start(lambda: call_host(ready), lambda: call_host(ready, ended))
    try:
        await ready
        if ended.done():
            raise thread.failure or RuntimeClosedError()
        yield AioRuntime(thread, max_calls=max_calls)
    finally:
        thread.close(drain_seconds=drain_timeout)
        if not thread.is_forked:
            await _wait_in_any_case(ended)
            thread.join()
    if thread.failure is not None:
        raise thread.failure


async def _wait_in_any_case(ended: "asyncio.Future[None]") -> None:
    """Wait for the thread's end, cancelled or not: it is bounded by its timeouts."""
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
