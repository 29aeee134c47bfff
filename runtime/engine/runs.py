"""DurableRuns: the actor that claims runs from the store, executes and ends them."""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, cast

import trio

from dspex.runtime import Actor
from dspex.runtime.engine.effects import FinishedEffect
from dspex.runtime.engine.errors import NotJsonError, RunInterruptedError
from dspex.runtime.engine.execution import ExecuteRun, Execution, Unsaved
from dspex.runtime.engine.inherited_runs import InheritedRuns
from dspex.runtime.engine.journaled import JournaledRun, read_stored
from dspex.runtime.engine.json_text import strict_text, to_text
from dspex.runtime.engine.run import Run
from dspex.runtime.engine.run_board import RunBoard
from dspex.runtime.engine.worker_lease import WorkerLease
from dspex.runtime.errors import DspexError
from dspex.runtime.journal import (
    Bodies,
    Fence,
    FinishRun,
    Journal,
    KeepCancelled,
    LeaseLostError,
    RunCancelledError,
    RunRow,
    StoreError,
    StoreRowError,
)
from dspex.runtime.journal.liveness import Watch, this_process
from dspex.runtime.log import get_logger
from dspex.runtime.reasons import ExitReason, describe

log = get_logger()

BEATS_PER_LEASE: Final = 4
_CLAIM_AT_ONCE: Final = 100
_FAREWELL_SECONDS: Final = 2.0


class DurableRuns(Actor):
    """Executes the runs that this worker has, at most `board.max_runs` at a time.

    It shows that it lives with a beat every quarter of `lease_seconds`. With `resume`
    it claims whatever is pending in the store and buries dead workers, so that their
    runs are pending again; else it claims only what this process was asked for. A run
    that a fault of the store interrupted is executed again after the next good beat.
    """

    trap_exit = True

    def __init__(
        self,
        journal: Journal,
        execute: ExecuteRun,
        board: RunBoard,
        *,
        lease_seconds: float,
        resume: bool,
        bodies: Bodies = "keep",
    ) -> None:
        self._journal = journal
        self._execute_run = execute
        self._board = board
        self._lease_seconds = lease_seconds
        self._lease = WorkerLease(lease_seconds)
        self._resume = resume
        self._bodies: Bodies = bodies
        self._worker = ""
        self._executions: dict[str, Execution] = {}
        self._interrupted: dict[str, tuple[RunRow, tuple[FinishedEffect, ...]]] = {}
        self._watch = Watch(lease_seconds)
        self._inherited = InheritedRuns(board)
        self._wake = trio.Event()
        # Whether others' runs may wait in the store: then a place that is free is used.
        self._may_find = True

    async def init(self) -> None:
        """Begin with nothing; what the last incarnation had is in the store."""
        before, self._board.worker = self._board.worker, None
        self._board.wanted.add(self._board.active, self._board.reserved)
        self._board.active.clear()
        self._board.reserved.clear()
        # Not here: the writer may be waiting for the supervisor that waits for this.
        self.spawn(self._begin, before)

    async def _begin(self, before: str | None) -> None:
        """Register as a new worker, bury what this process was before, and live."""
        while True:
            try:
                await self._register()
                if before is not None:
                    left = await self._journal.beat(before, [])
                    self._board.wanted.add(left.unasked)
                    await self._journal.bury([before])
                break
            except StoreError as error:
                log.warning("worker_not_registered", reason=describe(error))
            await trio.sleep(self._lease_seconds / BEATS_PER_LEASE)
        self.spawn(self._beat)
        self.spawn(self._claim)

    async def _register(self) -> None:
        identity = this_process()
        self._worker = f"{identity.pid}-{self.ref.id}-{time.time_ns():x}"
        sent = self._lease.now()
        await self._journal.register(self._worker, identity)
        self._lease.renew(sent)
        self._board.worker = self._worker

    async def start(self, row: RunRow) -> None:
        """Execute a run for which a place was reserved."""
        self._board.reserved.discard(row.id)
        if row.owner != self._worker:
            # Accepted for an earlier incarnation, which was buried: pending by now.
            self._board.own.append(row.id)
            self._look_for_runs()
            return
        self._execute_soon([row])

    async def wake(self) -> None:
        """Look for pending runs now."""
        self._look_for_runs()

    async def cancel(self, run: str) -> None:
        """Stop a run that the store has as cancelled."""
        self._stop_run(run)

    async def drain(self) -> None:
        """Claim no more; the board's `idle` is set when the last run has ended."""
        self._board.is_draining = True
        self._look_idle()

    async def terminate(self, reason: ExitReason) -> None:
        """Give the unfinished runs back, so that others can go on at once."""
        self._board.worker = None
        self._resume = False
        self._board.wanted.add(self._executions, self._interrupted, self._board.own)
        self._board.own.clear()
        for run in self._executions:
            self._stop_run(run)
        with trio.move_on_after(_FAREWELL_SECONDS, shield=True):
            try:
                await self._journal.bury([self._worker])
            except DspexError as error:
                log.warning("runs_not_released", reason=describe(error))

    def _look_idle(self) -> None:
        if self._board.is_draining and not self._board.active:
            self._board.idle.set()

    # Claiming

    def _look_for_runs(self) -> None:
        self._may_find = True
        self._wake.set()

    async def _claim(self) -> None:
        while True:
            self._wake = trio.Event()
            try:
                if await self._claim_some():
                    continue
            except StoreError as error:
                log.warning("runs_not_claimed", reason=describe(error))
            await self._wake.wait()

    async def _claim_some(self) -> bool:
        """Claim what there is room for; whether to try again at once."""
        limit = min(self._board.free, _CLAIM_AT_ONCE)
        own = self._board.own
        if not limit or not ((self._resume and self._may_find) or own):
            return False
        only = None if self._resume else [own[i] for i in range(min(limit, len(own)))]
        # A claim that is not filled leaves none; who comes meanwhile sets it again.
        could_find, self._may_find = self._may_find, False
        try:
            rows = await self._journal.claim(self._worker, limit=limit, only=only)
        except StoreError:
            self._may_find = could_find
            raise
        if self._resume:
            self._may_find |= len(rows) == limit
            claimed = {row.id for row in rows}
            while own and (own[0] in claimed or not rows):
                own.popleft()
        else:
            for _ in only or ():
                own.popleft()
            # Whoever took this worker for dead has them pending: not forgotten.
            self._board.wanted.add(set(only or ()) - {row.id for row in rows})
        self._execute_soon(rows)
        return len(rows) == limit

    # The heart

    async def _beat(self) -> None:
        while True:
            try:
                await self._beat_once()
            except StoreError as error:
                log.warning("beat_failed", reason=describe(error))
                self._lease.fail(error)
                for run in self._interrupted:
                    self._board.tell_fault(run, error)
            await trio.sleep(self._lease_seconds / BEATS_PER_LEASE)

    async def _beat_once(self) -> None:
        asked, sent = dict(self._executions), self._lease.now()
        beat = await self._journal.beat(self._worker, list(asked))
        if not beat.is_known:
            await self._lost()
            return
        self._lease.renew(sent)
        for run in beat.lost:
            # A claim that was committed after this beat is not what is lost.
            lost = self._executions.get(run)
            if lost is not None and lost is asked[run] and lost.next is None:
                self._stop_run(run)
        again, self._interrupted = self._interrupted, {}
        for row, unsaved in again.values():
            self._start(row, unsaved)
        await self._release_strays(beat.unasked)
        executing = self._executions.keys()
        await self._inherited.settle(self._journal, self._worker, executing)
        dead = self._watch.dead(beat.others)
        if not self._resume:
            found = await self._board.wanted.take_up(self._journal, dead)
            self._board.own.extend(set(found) - set(self._board.own))
            if found:
                self._look_for_runs()
            return
        self._board.wanted.clear()
        if dead:
            back = await self._journal.bury(dead)
            log.warning("workers_buried", workers=dead, runs=back)
        if beat.has_pending or dead:
            self._look_for_runs()

    async def _release_strays(self, unasked: frozenset[str]) -> None:
        """Have runs claimed again that are this worker's and that nobody executes.

        Who had them accepted or claimed gave up, cancelled or out of time, before the
        answer came that they were.
        """
        # Whose answer came with that of the beat is executing them after this.
        await trio.lowlevel.checkpoint()
        known = {*self._executions, *self._interrupted, *self._board.reserved}
        strays = unasked - known
        if strays:
            log.warning("runs_found", worker=self._worker, runs=len(strays))
            await self._journal.release(self._worker, list(strays))
            self._board.own.extend(strays)
        if self._board.own:
            self._look_for_runs()

    async def _lost(self) -> None:
        """Others took this worker for dead: its runs are theirs now."""
        log.warning("lease_lost", worker=self._worker, runs=len(self._executions))
        self._board.wanted.add(self._executions, self._interrupted)
        for run in self._executions:
            self._stop_run(run)
        for run in list(self._interrupted):
            self._board.tell(run, None)
        self._interrupted.clear()
        await self._register()
        self._look_for_runs()

    def _stop_run(self, run: str) -> None:
        execution = self._executions.get(run)
        if execution is not None:
            execution.next = None
            execution.scope.cancel()
        self._interrupted.pop(run, None)

    # Executing

    def _execute_soon(self, rows: Iterable[RunRow]) -> None:
        for row in rows:
            self._start(row, None)

    def _start(self, row: RunRow, unsaved: Unsaved) -> None:
        """Execute a run, when its former execution in this process has ended."""
        former = self._executions.get(row.id)
        if former is None:
            self._board.begin(row.id)
            execution = self._executions[row.id] = Execution(row, unsaved)
            self.spawn(self._execute, execution)
        elif row.epoch > max(it.epoch for it in (former.row, former.next) if it):
            # The lease was lost and the run claimed again.
            former.next = row
            former.scope.cancel()

    async def _execute(self, execution: Execution) -> None:
        row, unsaved = execution.row, execution.unsaved
        ended: Run | None = None
        try:
            try:
                with execution.scope:
                    ended = await self._run(execution)
            except RunInterruptedError as error:
                self._keep_interrupted(row, error, is_again=unsaved is not None)
            except (LeaseLostError, RunCancelledError, StoreError) as error:
                fault = RunInterruptedError(row.id, error, unsaved or ())
                self._keep_interrupted(row, fault, is_again=unsaved is not None)
            if ended is None and execution.next is None:
                ended = await self._keep_cancelled(execution)
        finally:
            del self._executions[row.id]
            self._board.active.discard(row.id)
        if execution.next is not None:
            self._interrupted.pop(row.id, None)
            self._start(execution.next, None)
            return
        if row.id not in self._interrupted:
            if ended is None:
                self._board.wanted.add([row.id])
            self._board.tell(row.id, ended)
        self._wake.set()
        self._look_idle()

    def _keep_interrupted(
        self, row: RunRow, error: RunInterruptedError, *, is_again: bool
    ) -> None:
        # To cancel a run is no fault of anybody's.
        is_wanted = isinstance(error.fault, RunCancelledError)
        tell = log.debug if is_wanted else log.warning
        tell("run_interrupted", run=row.id, reason=describe(error.fault))
        if isinstance(error.fault, StoreError):
            unsaved = cast("tuple[FinishedEffect, ...]", error.unsaved)
            self._interrupted[row.id] = (row, unsaved)
            if is_again:
                # Nobody knows for how long: who waits may want to know.
                self._board.tell_fault(row.id, error.fault)

    async def _keep_cancelled(self, execution: Execution) -> Run | None:
        """Keep what a cancelled run has done and give it; None if it was not."""
        row, steps = execution.row, tuple(execution.progress.values())
        if row.id in self._interrupted or self._board.worker is None:
            return None
        write = KeepCancelled(
            Fence(row.id, self._worker, row.epoch),
            to_text([record.to_json() for record in steps]),
            self._bodies,
        )
        try:
            if not await self._journal.write(write):
                return None
            stored = await self._journal.run(row.id)
        except StoreError as error:
            log.warning("steps_not_kept", run=row.id, reason=describe(error))
            return None
        cancelled = RunCancelledError(row.id)
        return Run(row.id, row.program, steps, {}, cancelled, stored.finished_at)

    async def _run(self, execution: Execution) -> Run:
        row, unsaved = execution.row, execution.unsaved
        fence = Fence(row.id, self._worker, row.epoch)
        journaled = JournaledRun(self._journal, fence, lease=self._lease)
        for effect in unsaved or ():
            await journaled.record(effect)
        journaled.note("started", {"worker": self._worker, "epoch": row.epoch})
        # A first attempt has nothing there yet.
        if row.epoch > 1 or unsaved is not None:
            try:
                stored = await read_stored(self._journal, row.id)
            except StoreRowError as error:
                failed = Run(row.id, row.program, (), {}, error)
                return await self._finish(fence, failed)
            journaled = JournaledRun(self._journal, fence, stored, lease=self._lease)
        try:
            ended = await self._execute_run(row, journaled, execution.progress)
        except StoreRowError as error:
            # No other time will it be better.
            ended = Run(row.id, row.program, (), {}, error)
        except (StoreError, RunInterruptedError, LeaseLostError, RunCancelledError):
            raise
        # The edge between a run and its worker: what cannot be run fails this run.
        except Exception as error:  # noqa: BLE001
            ended = Run(row.id, row.program, (), {}, error)
        return await self._finish(fence, ended)

    async def _finish(self, fence: Fence, ended: Run) -> Run:
        outputs: str | None = None
        try:
            steps = to_text([record.to_json() for record in ended.steps])
            if ended.error is None:
                outputs = strict_text(dict(ended.given))
        except NotJsonError as error:
            fault = NotJsonError(error.problem, what="what the run gave")
            ended, steps = Run(ended.id, ended.program, (), {}, fault), "[]"
        at = time.time()
        await self._journal.write(
            FinishRun(
                fence,
                ended.status,
                outputs,
                None if ended.error is None else error_text(ended.error),
                steps,
                at,
                bodies=self._bodies,
            )
        )
        return replace(ended, finished_at=at)


def error_text(error: BaseException) -> str:
    """Give an error as it is kept: its class and its message."""
    return to_text({"kind": type(error).__name__, "message": describe(error)})
