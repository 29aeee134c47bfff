"""DspyPool: processes that host dspy, as many as needed, under one actor.

    DspyPool
    ├── NAME.forks          the fork-server: imported dspy once
    ├── NAME.1              a process, forked; one run at a time by default
    └── NAME.2 ...

The pool is a supervisor of its own kind: it traps exits, replaces what dies, and lets
itself crash when processes cannot be started at all. What it decides about its size is
in `pool_worker`, its queue in `pool_queue`, which process is sick in `pool_health`.
"""

import itertools
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Final

import trio

from dspex.runtime.actor import Actor, Leave, Refuse
from dspex.runtime.bridge.bridge import DspyBridge
from dspex.runtime.bridge.calls import (
    DspyCall,
    DspyResult,
    ModelHandler,
    Optimization,
    OptimizedProgram,
    ProgressHandler,
    ToolHandler,
)
from dspex.runtime.bridge.errors import (
    BridgeError,
    RemoteError,
    WorkerDiedError,
)
from dspex.runtime.bridge.pool_forks import PoolForks
from dspex.runtime.bridge.pool_health import PoolHealth, fail_run
from dspex.runtime.bridge.pool_job import Job
from dspex.runtime.bridge.pool_queue import PoolQueue
from dspex.runtime.bridge.pool_settings import PoolSettings, PoolStatistics
from dspex.runtime.bridge.pool_worker import PoolWorker, Workers
from dspex.runtime.bridge.run_in_flight import Handlers, Outcome, RunInFlight
from dspex.runtime.envelope import Deferred
from dspex.runtime.errors import (
    CalleeExitedError,
    CallError,
    CallTimeoutError,
    StartError,
)
from dspex.runtime.log import get_logger
from dspex.runtime.messages import Exit
from dspex.runtime.reasons import KILL, ExitReason, describe, is_orderly

_STOP_SECONDS: Final = 5.0
_START_ATTEMPTS: Final = 3
_BACKOFF_SECONDS: Final = 0.1
_TICK_SECONDS: Final = 0.1

log = get_logger()


class DspyPool(Actor):
    """Runs dspy modules and Python functions in processes of their own.

    A run has a process to itself (unless `concurrency` says otherwise), so that what
    kills one process fails one run. Over `max_size` runs wait in a bounded queue.
    """

    trap_exit = True

    def __init__(
        self,
        settings: PoolSettings | None = None,
        *,
        python: str | None = None,
        search_path: Sequence[str | Path] = (),
    ) -> None:
        """Say how many processes, under which limits, on which interpreter.

        `search_path` are folders from which `package.module:attribute` is imported.
        """
        self._settings = settings or PoolSettings()
        self._numbers = itertools.count(1)
        self._workers = Workers(self._settings)
        self._queue = PoolQueue(self._settings)
        self._forks = PoolForks(
            python=python,
            search_path=search_path,
            limits=self._settings.limits,
            start_timeout=self._settings.start_timeout,
        )
        self._failures = 0
        self._counts = PoolStatistics()
        self._health = PoolHealth(self._settings, self._counts)
        self._stopping = False
        self._starts: set[trio.CancelScope] = set()
        self._start_ended = trio.Event()

    async def init(self) -> None:
        """Start the fork-server and the first processes, all at once.

        Raises:
            BridgeUnavailableError: the interpreter cannot host dspy.
            StartError: a process did not start.
        """
        await self._start_forks()
        errors: list[Exception] = []
        async with trio.open_nursery() as nursery:
            for _ in range(self._workers.wanted(queued=0)):
                nursery.start_soon(self._start_first, errors)
        if errors:
            raise errors[0]
        self.spawn(self._keep_house)

    async def _start_first(self, errors: list[Exception]) -> None:
        try:
            await self._add_worker()
        except (StartError, CallError, trio.TooSlowError) as error:
            errors.append(error)

    # What callers ask.

    async def run(
        self,
        call: DspyCall,
        on_model_call: ModelHandler,
        on_tool_call: ToolHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> Deferred[DspyResult]:
        """Run a hosted module or function; as `DspyBridge.run`, in a free process.

        When the caller stops waiting, a queued run is dropped; a running one is told
        to stop, and its process killed if it does not obey.

        Raises:
            PoolFullError: the queue is full; nothing was started.
            QueueTimeoutError: no process was free in time; nothing was started.
            RunTimeoutError: it took too long; its process was killed.
            CalleeExitedError: its process died; `reason` is a `WorkerDiedError`.
            SessionWorkerUnavailableError: the process of its session is gone.
            TooManySessionsError: the pool keeps no more sessions.
            RemoteError, UnsupportedValueError, FrameTooLargeError: as `DspyBridge`.
        """
        handlers = Handlers(on_model_call, on_tool_call, on_progress)
        seconds = self._settings.run_timeout if call.timeout is None else call.timeout
        answer: Deferred[DspyResult] = self.deferred()
        self._enqueue(
            Job(
                call.to_run,
                call.module,
                handlers,
                seconds,
                answer,
                call.session,
                call.is_brief,
            )
        )
        return answer

    async def optimize(
        self,
        optimization: Optimization,
        on_model_call: ModelHandler,
        on_progress: ProgressHandler | None = None,
    ) -> Deferred[OptimizedProgram]:
        """Run a dspy optimizer in a free process; raises as `run`."""
        answer: Deferred[OptimizedProgram] = self.deferred()
        self._enqueue(
            Job(
                optimization.to_optimize,
                optimization.optimizer,
                Handlers(on_model_call, None, on_progress),
                optimization.timeout or self._settings.optimize_timeout,
                answer,
                shape=OptimizedProgram.of,
            )
        )
        return answer

    async def end_session(self, session: str) -> None:
        """Forget a session; its process is free for others."""
        self._workers.end_session(session)

    async def statistics(self) -> PoolStatistics:
        """Give the pool's counts, as of now."""
        return self.figures

    @property
    def figures(self) -> PoolStatistics:
        """The pool's counts, for who looks at the actor itself."""
        return self._workers.fill(self._counts, queued=len(self._queue))

    async def renew(self) -> None:
        """Let each process end after the runs that it has; new ones take new runs.

        They import anew what runs name: a process keeps the code that it has imported.
        A session loses its process, and hears of it with its next call.
        """
        for worker in self._workers:
            if not worker.is_retired:
                self._recycle(worker)
        self._dispatch()

    async def pids(self) -> list[int]:
        """Give the pids of the processes that take runs."""
        return [
            worker.pid
            for worker in self._workers
            if not (worker.is_retired or worker.bridge.is_ending)
        ]

    def _enqueue(self, job: Job) -> None:
        try:
            self._workers.check_session(job.session)
            self._queue.check_room(self.name)
        except BridgeError as error:
            self._counts.rejected += 1
            raise Refuse(error) from error
        self._queue.put(job)
        self._dispatch()

    # Dispatch.

    def _dispatch(self) -> None:
        """Give waiting jobs to free processes, and start processes if needed."""
        while (found := self._queue.take(self._workers)) is not None:
            self._start(*found)
        if not self._stopping:
            for _ in range(
                self._workers.missing(
                    queued=len(self._queue), is_one_brief=self._queue.begins_briefly
                )
            ):
                self._workers.starting += 1
                # The deadline of whoever made us grow is not the process's.
                Context().run(self.spawn, self._start_worker)

    def _start(self, job: Job, worker: PoolWorker) -> None:
        """Send a job's run; nothing waits for it but its caller."""

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, RemoteError):
                self._counts.failed += 1
                job.answer.fail(outcome)
            else:
                self._counts.served += 1
                job.answer.reply(job.shape(outcome))
            self._release(worker, run)

        deadline = trio.current_time() + job.timeout
        run = RunInFlight(
            job.make, job.what, job.handlers, done, job.context, deadline=deadline
        )
        try:
            worker.bridge.start_run(run)
        except BridgeError as error:  # it does not travel
            self._counts.failed += 1
            job.answer.fail(error)
            return
        self._workers.assign(worker, job, run)
        job.answer.when_settled(partial(self._unwanted, worker, run))

    def _release(self, worker: PoolWorker, run: RunInFlight) -> None:
        worker.release(run)
        if not worker.is_retired and worker.is_worn_out(
            self._settings, trio.current_time()
        ):
            self._recycle(worker)
        if self._queue or worker.is_retired:
            self._dispatch()

    def _unwanted(self, worker: PoolWorker, run: RunInFlight) -> None:
        if not run.is_over:
            self._counts.cancelled += 1
            worker.bridge.cancel_run(run)
            Context().run(self.spawn, self._settle, worker, run)

    def _recycle(self, worker: PoolWorker) -> None:
        self._counts.recycled += 1
        worker.retire()

    async def _settle(self, worker: PoolWorker, run: RunInFlight) -> None:
        """Wait until a process has dropped a cancelled run; kill it if it does not."""
        try:
            await worker.ref.call(
                DspyBridge.settle, timeout=self._settings.cancel_grace
            )
        except CallTimeoutError:
            worker.kill()
        except CallError:
            pass  # it is dead already
        self._release(worker, run)

    # Processes come and go.

    async def _start_forks(self) -> None:
        server = self._forks.make()
        ref = await self.start_link(server, name=f"{self.name}.forks")
        self._forks.set(ref, server)

    async def _start_worker(self) -> None:
        failures = self._failures
        with trio.CancelScope() as scope:
            self._starts.add(scope)
            try:
                await self._add_worker()
            except (StartError, CallError, trio.TooSlowError) as error:
                await self._start_failed(error, failures)
            else:
                self._failures = 0
            finally:
                self._starts.discard(scope)
                self._start_ended.set()
                self._workers.starting -= 1
            self._dispatch()

    async def _add_worker(self) -> None:
        with trio.fail_after(self._settings.start_timeout):
            forks = await self._forks.wait()
        bridge = DspyBridge(
            launcher=self._forks.fork, start_timeout=self._settings.start_timeout
        )
        name = f"{self.name}.{next(self._numbers)}"
        ref = await self.start_link(bridge, name=name)
        try:
            pid = await ref.call(DspyBridge.pid)
        except trio.Cancelled:
            ref.exit(KILL)  # nobody else knows it
            raise
        worker = PoolWorker(ref, bridge, pid)
        # Its fork-server died while it was started: the kernel kills it.
        worker.is_retired = self._forks.has_lost(forks)
        self._workers.add(worker)

    async def _start_failed(self, error: Exception, failures: int) -> None:
        log.warning("dspy_process_not_started", pool=self.name, reason=describe(error))
        if failures != self._failures:
            # It was begun beside another one that failed: of what, was counted there.
            await trio.sleep(_BACKOFF_SECONDS * 2**self._failures)
            return
        self._failures += 1
        if self._failures >= _START_ATTEMPTS:
            raise error
        if self._failures > 1:
            self._forks.kill()  # it answers wrongly or not at all
        await trio.sleep(_BACKOFF_SECONDS * 2**self._failures)

    async def handle_info(self, message: object) -> None:
        """Replace what died."""
        if not isinstance(message, Exit) or message.ref is None:
            return
        if message.ref == self.ref:  # a task of its own crashed
            raise Leave(message.reason)
        if message.ref == self._forks.ref:
            self._forks.lose()
            self._counts.fork_server_restarts += 1
            for orphan in self._workers:
                orphan.is_retired = True  # the kernel kills it, if it has not yet
            Context().run(self.spawn, self._start_forks)
            return
        worker = self._workers.remove(message.ref)
        if worker is not None:
            if not is_orderly(message.reason) and not worker.was_killed:
                self._counts.died += 1
            for run, job in worker.runs.items():
                self._counts.failed += not run.is_over
                reason = message.reason
                if isinstance(reason, WorkerDiedError):
                    reason = reason.during(job.what)
                fail_run(run, job, CalleeExitedError(worker.ref.name, reason))
            log.info(
                "dspy_process_ended",
                pool=self.name,
                pid=worker.pid,
                reason=describe(message.reason),
            )
        self._dispatch()

    async def terminate(self, reason: ExitReason) -> None:
        """End every process before the pool is gone, the fork-server last."""
        self._stopping = True
        await self._stop_starts()
        workers = [worker.ref for worker in self._workers]
        await self.end_children(workers, [_STOP_SECONDS] * len(workers))
        if self._forks.ref is not None:
            await self.end_children([self._forks.ref], [_STOP_SECONDS])

    async def _stop_starts(self) -> None:
        """End what is being started, which would die with the fork-server."""
        for scope in self._starts:
            scope.cancel()
        with trio.move_on_after(_STOP_SECONDS):
            while self._starts:
                self._start_ended = trio.Event()
                await self._start_ended.wait()

    # Housekeeping.

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(_TICK_SECONDS)
            now = trio.current_time()
            self._counts.queue_timeouts += self._queue.expire(now, self.name)
            if self._workers.starting:
                self._health.check_forks(self._forks, now)
            for worker in self._workers:
                self._health.check_busy(worker, now)
            for worker in self._workers.to_ping(now):
                if worker.is_worn_out(self._settings, now):
                    self._recycle(worker)
                else:
                    self.spawn(self._health.ping, worker)
            for worker in self._workers.surplus(queued=len(self._queue), now=now):
                worker.retire()
            self._dispatch()
