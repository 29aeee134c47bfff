"""sync: the runtime in a plain script, a thread pool, or Django without asyncio.

    with dspex.sync.open_runtime(app) as rt:
        run = rt.run("triage", ticket="My invoice is wrong")

Any number of threads may share one runtime.
"""

import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from dspex.runtime.engine import Program, Run
from dspex.supervisors import TreeNode
from dspex.worker.aio import (
    DRAIN_SECONDS,
    MAX_CALLS,
    call_named,
    next_batch,
    read_events,
    submit,
    tree,
)
from dspex.worker.app import Runtime
from dspex.worker.application import App, open_app
from dspex.worker.errors import OwnThreadError, RuntimeClosedError
from dspex.worker.followed_run import FollowedRun
from dspex.worker.open_runtime import LEASE_SECONDS, MAX_RUNNING, KeepText
from dspex.worker.run_record import RunEvent
from dspex.worker.runs import MAX_UNFINISHED
from dspex.worker.trio_thread import Job, TrioThread, result_of

P = ParamSpec("P")
T = TypeVar("T")


class SyncRuntime:
    """A runtime as synchronous code uses it; made by `open_runtime`.

    An exception in the waiting thread (Ctrl-C) cancels the work in the runtime; a run
    that a store has accepted goes on: `stream` and `cancel` end it. The work sees the
    context variables of the caller.

    Every method raises RuntimeClosedError outside the `with` block or when the
    runtime has ended, ForkedRuntimeError in a child process, OwnThreadError in the
    runtime's own thread, and else what the method of `Runtime` raises.
    """

    def __init__(self, thread: TrioThread[Runtime], *, max_calls: int) -> None:
        self._thread = thread
        self._room = threading.BoundedSemaphore(max_calls)

    def run(
        self,
        program: Program | str,
        /,
        **inputs: Any,  # Any: as the signatures declare
    ) -> Run:
        """Run a program, or the loaded one of that name, and give the finished Run."""
        return self.run_inputs(program, inputs)

    def run_inputs(
        self,
        program: Program | str,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
    ) -> Run:
        """Run a program on inputs by name; see `Runtime.run_inputs`."""
        return self._perform(self._hosted().run_inputs, program, inputs)

    def stream(
        self,
        program: Program | str,
        /,
        **inputs: Any,  # Any: as the signatures declare
    ) -> Generator[RunEvent]:
        """Run a program and give its events as they come; the last tells its end.

        A stream that is closed before its end (`close`, or an exception in the waiting
        thread) cancels the run, also one that a store has accepted.
        """
        followed = FollowedRun()
        is_begun = is_whole = False
        try:
            with self._room:
                hosted = self._hosted()
                is_begun = True
                run = self._perform_anyhow(followed.accept, hosted, program, inputs)
            yield from self.events(run)
            is_whole = True
        finally:
            if is_begun and not is_whole and not self._thread.is_forked:
                with suppress(RuntimeClosedError):  # its runs have ended
                    self._perform_anyhow(followed.withdraw)

    def submit(
        self,
        program: Program | str,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
        *,
        key: str | None = None,
    ) -> str:
        """Accept a run that goes on by itself, and give its id."""
        return self.call(submit, program, inputs, key)

    def result(self, run: str) -> Run:
        """Wait for a run's end and give it; a failed one is given too."""
        return self._perform(self._hosted().result, run)

    def cancel(self, run: str) -> None:
        """Cancel a run and wait for its end.

        The run is cancelled also when an exception ends the waiting.
        """
        self._perform_anyhow(self._hosted().cancel, run)

    def events(self, run: str, *, after: int = 0) -> Generator[RunEvent]:
        """Give a run's events in order, from the one after `after` to its end.

        See `Runtime.events`: the text of steps comes with them.
        """
        cursor = self.call(read_events, run, after)
        while batch := self.call(next_batch, cursor):
            yield from batch

    def tree(self) -> TreeNode:
        """Give a snapshot of the supervision tree."""
        return self.call(tree)

    def call(
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
        hosted = self._hosted()
        result: T
        if named:
            result = self._perform(call_named, work, hosted, arguments, named)
        else:
            result = self._perform(work, hosted, *arguments)
        return result

    def _hosted(self) -> Runtime:
        self._thread.check_usable()
        return self._thread.hosted

    def _perform(self, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
        if self._thread.is_current:
            raise OwnThreadError
        with self._room:
            self._thread.check_usable()
            ended = threading.Event()
            job = Job(work, arguments, lambda _: ended.set())
            try:
                self._thread.submit(job)
                ended.wait()
            except BaseException:
                self._thread.cancel(job)
                ended.wait()
                raise
        result: T = result_of(job)
        return result

    def _perform_anyhow(
        self, work: Callable[..., Awaitable[T]], *arguments: object
    ) -> T:
        """Perform what goes on, and ends, when its caller is interrupted."""
        if self._thread.is_current:
            raise OwnThreadError
        ended = threading.Event()
        job = Job(work, arguments, lambda _: ended.set())
        self._thread.submit(job)
        ended.wait()
        result: T = result_of(job)
        return result


@contextmanager
def open_runtime(
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
) -> Generator[SyncRuntime]:
    """Open a runtime for the length of a `with` block.

    Open it after a fork, never at import. The settings are those of
    `dspex.aio.open_runtime`. At most `max_calls` calls are in the runtime; the
    threads of further ones wait. When the block is left, calls under way have
    `drain_timeout` seconds to end; then they raise RuntimeClosedError.

    Raises:
        DspexError: what kept the runtime from opening, as `open_app` raises it.
    """
    wanted = App() if app is None else app
    ready = threading.Event()
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
    thread.start(ready.set, ready.set)
    try:
        ready.wait()
        if not thread.is_open:
            raise thread.failure or RuntimeClosedError()
        yield SyncRuntime(thread, max_calls=max_calls)
    finally:
        thread.close(drain_seconds=drain_timeout)
        thread.join(seconds=drain_timeout + shutdown_timeout)
    if thread.failure is not None:
        raise thread.failure
