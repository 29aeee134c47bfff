"""TrioThread: trio on a thread of its own, and a batched way in.

What comes in a burst wakes trio once: jobs are appended to an inbox, and only the
first of a burst calls `run_sync_soon`. Signals stay with the host: trio installs its
handlers in the main thread only.
"""

import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from typing import Any, Final, Generic, TypeVar, cast

import trio

from dspex.runtime.threads import making_way
from dspex.worker.errors import ForkedRuntimeError, RuntimeClosedError

HostedT = TypeVar("HostedT")
T = TypeVar("T")

_JOIN_SECONDS: Final = 30.0
"""What closing may take over what it is given."""


class Job:
    """One piece of work on its way into trio and back.

    `finished` is called once, in trio's thread or in the one that found it gone;
    then `result` or `error` is set.
    """

    __slots__ = (
        "arguments",
        "context",
        "error",
        "finished",
        "is_done",
        "result",
        "scope",
        "work",
    )

    def __init__(
        self,
        work: Callable[..., Awaitable[Any]],  # Any: typed by who makes the job
        arguments: tuple[object, ...],
        finished: "Callable[[Job], None]",
    ) -> None:
        self.work = work
        self.arguments = arguments
        self.context: Context = copy_context()
        self.finished = finished
        self.result: Any = None  # Any: typed by who made the job
        self.error: BaseException | None = None
        self.scope: trio.CancelScope | None = None
        self.is_done = False

    def fail(self, error: BaseException) -> None:
        """Finish without a result, unless it is finished."""
        if not self.is_done:
            self.is_done = True
            self.error = error
            self.finished(self)

    def cancel(self) -> None:
        """Cancel it, or finish it where it has not begun; in trio's thread."""
        if self.scope is not None:
            self.scope.cancel()
        else:
            self.fail(RuntimeClosedError())

    async def run(self) -> None:
        """Do the work; its exception is the job's error."""
        if self.is_done:  # cancelled before it started
            return
        error: BaseException | None = None
        has_result = False
        try:
            with trio.CancelScope() as self.scope:
                try:
                    self.result = await awaitable_of(self.work, *self.arguments)
                    has_result = True
                except (Exception, KeyboardInterrupt, SystemExit) as raised:  # noqa: BLE001
                    error = raised  # the caller's, not the runtime's
        finally:
            # Also when the scope, or the whole runtime, was cancelled.
            self.scope = None
            self.is_done = True
            if not has_result:
                self.error = RuntimeClosedError() if error is None else error
            self.finished(self)


def awaitable_of(
    work: Callable[..., Awaitable[T]], *arguments: object, **named: object
) -> Awaitable[T]:
    """Call what should be an async function.

    Raises:
        TypeError: what it gave cannot be awaited.
    """
    made = work(*arguments, **named)
    if isinstance(made, Awaitable):
        return made
    raise TypeError(
        f"call() takes an async function, to be awaited under trio; {work!r} gave "
        f"{type(made).__name__}: write `async def work(runtime, ...)`"
    )


def result_of(job: Job) -> Any:  # Any: typed by who made the job
    """Give what a finished job came to; its error is raised."""
    if job.error is not None:
        try:
            raise job.error
        finally:
            job.error = None  # its traceback holds this frame
    return job.result


class TrioThread(Generic[HostedT]):
    """Runs `open_hosted` under trio on a thread, and jobs beside what it gives."""

    def __init__(
        self, open_hosted: Callable[[], AbstractAsyncContextManager[HostedT]]
    ) -> None:
        self._open_hosted = open_hosted
        self._inbox: deque[Callable[[], object]] = deque()
        self._is_woken = False
        self._pid = os.getpid()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._hosted: HostedT | None = None
        self._failure: BaseException | None = None
        self._must_end: trio.Event | None = None
        self._drain_seconds = 0.0
        self._running = 0
        self._idle: trio.Event | None = None
        self._is_closing = False
        self._has_ended = False
        self._on_ready: Callable[[], object] = lambda: None
        self._on_end: Callable[[], object] = lambda: None
        self._thread = threading.Thread(
            target=self._main, name="dspex-runtime", daemon=True
        )

    @property
    def hosted(self) -> HostedT:
        """What runs on the thread.

        Raises:
            RuntimeClosedError: it is not there any more, or failed to open.
        """
        if self._hosted is None:
            raise RuntimeClosedError(self._failure)
        return self._hosted

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread, if it was not told to end."""
        return self._failure

    @property
    def is_open(self) -> bool:
        """Whether it takes jobs."""
        return self._nursery is not None

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this very thread."""
        return threading.current_thread() is self._thread

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that has the thread."""
        return os.getpid() != self._pid

    def start(
        self, on_ready: Callable[[], object], on_end: Callable[[], object]
    ) -> None:
        """Start the thread; both are called in it, `on_ready` never after a failure."""
        self._on_ready = on_ready
        self._on_end = on_end
        self._thread.start()

    def check_usable(self) -> None:
        """Raise ForkedRuntimeError or RuntimeClosedError if no job can be taken."""
        if self.is_forked:
            raise ForkedRuntimeError(self._pid, os.getpid())
        if self._is_closing or self._has_ended:
            raise RuntimeClosedError(self._failure)

    def submit(self, job: Job) -> None:
        """Take a job; it is finished in any case, if only with RuntimeClosedError."""
        self._post(lambda: self._begin(job))

    def cancel(self, job: Job) -> None:
        """Cancel a job, also one that has not started."""
        self._post(job.cancel)

    def close(self, *, drain_seconds: float) -> None:
        """Take no more jobs, let those under way end in time, then end the rest."""
        self._is_closing = True
        if not self.is_forked:
            self._drain_seconds = drain_seconds
            self._post(self._end)

    def join(self, *, seconds: float = 0.0) -> None:
        """Wait until the thread is gone, at most `seconds` and half a minute."""
        if not self.is_forked:
            self._thread.join(min(seconds + _JOIN_SECONDS, threading.TIMEOUT_MAX))

    def _end(self) -> None:
        if self._must_end is not None:
            self._must_end.set()

    def _post(self, item: Callable[[], object]) -> None:
        self._inbox.append(item)
        if not self._is_woken and self._token is not None:
            try:
                self._is_woken = True
                self._token.run_sync_soon(self._take)
            except trio.RunFinishedError:
                self._has_ended = True
            except BaseException:
                # Ctrl-C in the host's thread: nobody knows whether trio was woken.
                self._is_woken = False
                raise
        if self._has_ended:
            self._take()

    def _take(self) -> None:
        # First, so that what is posted from here on wakes trio again.
        self._is_woken = False
        while self._inbox:
            try:
                item = self._inbox.popleft()
            except IndexError:  # another thread was quicker, after the end
                return
            item()

    def _begin(self, job: Job) -> None:
        if self._nursery is None or self._has_ended:
            job.fail(RuntimeClosedError(self._failure))
        else:
            self._running += 1
            job.context.run(self._nursery.start_soon, self._run, job)

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        finally:
            self._running -= 1
            if self._idle is not None and not self._running:
                self._idle.set()

    def _main(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 - told to the host
            self._failure = _innermost(error)
        finally:
            self._has_ended = True
            self._hosted = None
            self._take()
            self._on_end()

    async def _serve(self) -> None:
        self._must_end = trio.Event()
        self._idle = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._take()
        if self._is_closing:
            return
        with making_way():  # the host has a thread, too
            await self._serve_hosted(self._must_end)

    async def _serve_hosted(self, must_end: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_opening, nursery.cancel_scope)
            await self._host(must_end)
            nursery.cancel_scope.cancel()

    async def _cancel_opening(self, scope: trio.CancelScope) -> None:
        assert self._must_end is not None
        await self._must_end.wait()
        if self._hosted is None:
            scope.cancel()

    async def _host(self, must_end: trio.Event) -> None:
        async with self._open_hosted() as hosted, trio.open_nursery() as nursery:
            self._hosted = hosted
            self._nursery = nursery
            self._on_ready()
            try:
                await must_end.wait()
                with trio.move_on_after(self._drain_seconds):
                    while self._running:
                        self._idle = trio.Event()
                        await self._idle.wait()
            finally:
                self._is_closing = True
                self._nursery = None
            nursery.cancel_scope.cancel()


def _innermost(error: BaseException) -> BaseException:
    """Give what a nursery has wrapped, where it is one thing."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _innermost(group.exceptions[0]) if len(group.exceptions) == 1 else group
