"""DurableDesk: runs accepted when they are on disk, and finished whatever dies.

Made by `open_runtime(store=...)`, which puts the actors behind it on the tree.
"""

import json
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio

from dspex.runtime import ActorRef, CallError, NoProcessError
from dspex.runtime.engine import (
    Plan,
    Program,
    Run,
    RunFailedError,
    StepRecord,
)
from dspex.runtime.engine.json_text import to_text
from dspex.runtime.engine.run_board import RunBoard
from dspex.runtime.engine.runs import DurableRuns
from dspex.runtime.journal import (
    AcceptRun,
    Event,
    Journal,
    RunCancelledError,
    RunNotFoundError,
    RunRow,
)
from dspex.runtime.registry import Registry
from dspex.worker.loaded_programs import MAX_PASSING
from dspex.worker.run_record import RunEvent
from dspex.worker.runs import KeyReusedError

RUNS: Final = "runs"
"""The name of the actor that executes runs."""

# Runs of this process tell of their end; those that wait and those of others are looked
# at, the less often the more they are: the store has few readers.
POLL_SECONDS: Final = 0.25
_OWN_POLL_SECONDS: Final = 5.0
_LOOKS_PER_SECOND: Final = 200

# How long a cancelled run of this process may take to end.
_END_SECONDS: Final = 5.0

# Idempotency keys become run ids under this name.
_KEYS: Final = uuid.UUID("5d0c5a0e-6f0b-5c57-9d84-2a6f0e4f7f2b")

# Gives the plan of a program that is in the store, without starting anything.
StoredPlan = Callable[[str, int], Awaitable[Plan]]


class DurableDesk:
    """Accepts runs into the store, and tells what became of them."""

    stored_plan: StoredPlan

    def __init__(self, journal: Journal, registry: Registry, board: RunBoard) -> None:
        self.journal = journal
        self._registry = registry
        self._board = board
        self._looking = 0
        self._versions: dict[str, tuple[Program, int]] = {}

    async def version_of(self, program: Program) -> int:
        """Give the version that the program is in the store, kept now if it is new."""
        known = self._versions.get(program.name)
        if known is not None and known[0] == program:
            return known[1]
        saved = await self.journal.save_program(
            program.name, program.model_dump(mode="json"), made_by="run"
        )
        if len(self._versions) >= MAX_PASSING:
            del self._versions[next(iter(self._versions))]
        self._versions[program.name] = (program, saved.version)
        return saved.version

    async def submit(
        self,
        program: Program,
        inputs: Mapping[str, Any],  # Any: checked by the plan
        *,
        key: str | None,
    ) -> str:
        """Keep a run whose inputs were checked; it is on disk when this returns.

        The same `key` gives the same id, in every process.

        Raises:
            KeyReusedError: the key's run has another program or other inputs.
            StoreError: it was not accepted.
        """
        version = await self.version_of(program)
        run = (uuid.uuid4() if key is None else uuid.uuid5(_KEYS, key)).hex
        owner = self._board.reserve(run)
        write = AcceptRun(
            run,
            program.name,
            version,
            to_text(dict(inputs)),
            "{}",
            time.time(),
            owner,
            is_worker=True,
        )
        try:
            is_new = await self.journal.accept(write)
        except BaseException:
            self._board.give_back(run, owner)
            raise
        if not is_new:
            self._board.give_back(run, owner)
            row = await self.journal.run(run)
            same = to_text(row.inputs) == write.inputs
            if (row.program, row.version) != (program.name, version) or not same:
                raise KeyReusedError(key or "", run)
            if not row.is_finished and not self._board.has(run):
                self._board.wanted.add([run])
            return run
        try:
            await self._start(write, owner)
        except trio.Cancelled:
            # It is on disk all the same, and found there with the next beat.
            self._board.give_back(run, owner)
            raise
        return run

    async def _start(self, write: AcceptRun, owner: str | None) -> None:
        ref: ActorRef[DurableRuns] | None = self._registry.whereis(RUNS)
        if owner != self._board.worker:
            # The actor died meanwhile, and what it was is being buried.
            self._board.give_back(write.id, owner)
            owner = None
        if owner is None:
            self._board.own.append(write.id)
        if ref is None:
            # Its next incarnation finds the run in the store.
            return
        with suppress(NoProcessError):
            if owner is None:
                await ref.cast(DurableRuns.wake)
            else:
                await ref.cast(DurableRuns.start, _first_row(write))

    async def result(self, run: str, *, timeout: float = math.inf) -> Run:
        """Wait for the end of a run and give it.

        Raises:
            RunNotFoundError: there is no such run.
            RunCancelledError: it was cancelled.
            StoreError: the store keeps it from going on; it is not finished, and goes
                on when the store can be written.
            trio.TooSlowError: it has not ended within `timeout` seconds.
        """
        late = trio.current_time() + timeout
        waiter = self._board.expect(run)
        try:
            poll = _OWN_POLL_SECONDS if self._board.has(run) else 0.0
            while True:
                with trio.move_on_at(min(late, trio.current_time() + poll)):
                    await waiter.done.wait()
                if waiter.run is not None:
                    return _finished(waiter.run)
                if waiter.fault is not None:
                    raise waiter.fault
                row = await self.journal.run(run)
                if row.is_finished:
                    return await self.read(row)
                if trio.current_time() >= late:
                    raise trio.TooSlowError
                if waiter.done.is_set():
                    waiter = self._board.expect(run)
                poll = poll_seconds(self._board.waited_for)
                if self._board.has(run):
                    poll = _OWN_POLL_SECONDS
        finally:
            self._board.forget(run, waiter)

    async def read(self, row: RunRow) -> Run:
        """Give a finished run as the store has it.

        Raises:
            RunCancelledError: it was cancelled.
        """
        steps = tuple(StepRecord.from_json(data) for data in row.steps or ())
        if row.state == "succeeded":
            plan = await self.stored_plan(row.program, row.version)
            given, error = plan.read_outputs(row.outputs), None
        else:
            given, error = {}, stored_error(row)
        ended = Run(row.id, row.program, steps, given, error, row.finished_at)
        return ended if error is None else _finished(ended)

    async def cancel(self, run: str) -> None:
        """Cancel a run, whoever executes it; nothing happens to a finished one.

        Raises:
            RunNotFoundError: there is no such run.
        """
        if await self.journal.cancel(run) is None:
            raise RunNotFoundError(run)
        ref: ActorRef[DurableRuns] | None = self._registry.whereis(RUNS)
        if ref is None:
            return  # it learns of it with its next write, or at its next start
        waiter = self._board.expect(run)
        try:
            with suppress(CallError):
                await ref.call(DurableRuns.cancel, run)
            with trio.move_on_after(_END_SECONDS):
                if self._board.has(run):
                    await waiter.done.wait()
        finally:
            self._board.forget(run, waiter)

    async def look_events(self, run: str, *, after: int) -> tuple[list[RunEvent], bool]:
        """Give a run's events after that number, and whether no more will come.

        Raises:
            RunNotFoundError: there is no such run.
        """
        row = await self.journal.run(run)
        found = await self.journal.events(run, after=after)
        return [_event(event) for event in found], row.is_finished

    async def wait_to_look(self) -> None:
        """Wait until it is time to look for events anew: the longer the more wait."""
        self._looking += 1
        try:
            await trio.sleep(poll_seconds(self._looking))
        finally:
            self._looking -= 1

    async def drain(self, timeout: float) -> bool:
        """Start no more runs, and wait for those that run; whether all have ended."""
        self._board.is_draining = True
        ref: ActorRef[DurableRuns] | None = self._registry.whereis(RUNS)
        if ref is not None:
            await ref.call(DurableRuns.drain)
        with trio.move_on_after(timeout):
            await self._board.idle.wait()
        return self._board.idle.is_set()


def poll_seconds(looking: int) -> float:
    """Give how long each of so many waits before it looks into the store again."""
    return min(_OWN_POLL_SECONDS, max(POLL_SECONDS, looking / _LOOKS_PER_SECOND))


def _finished(run: Run) -> Run:
    if isinstance(run.error, RunCancelledError):
        raise run.error.with_traceback(None)
    return run


def _event(event: Event) -> RunEvent:
    return RunEvent(event.number, event.run, event.kind, event.at, event.body)


def _first_row(write: AcceptRun) -> RunRow:
    return RunRow(
        write.id,
        write.program,
        write.version,
        "running",
        json.loads(write.inputs),
        {},
        None,
        None,
        None,
        write.owner,
        1,
        write.accepted_at,
        write.accepted_at,
        None,
    )


def stored_error(row: RunRow) -> Exception | None:
    """Give the error of a run that the store has; None if it has none."""
    if row.state == "cancelled":
        return RunCancelledError(row.id)
    if row.state != "failed":
        return None
    found = json.loads(row.error or "{}")
    return RunFailedError(
        row.id, found.get("kind", "Exception"), found.get("message", "unknown")
    )
