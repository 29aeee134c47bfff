"""Runs: every run that was accepted, what it does, and what became of it.

`Runs` is the actor that the runs belong to; `RunTable` is what it knows of them. The
table outlives the actor: one that is started again takes up what was not finished.
"""

import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import trio

from dspex.runtime import Actor, DspexError
from dspex.runtime.engine import Program, Run
from dspex.runtime.journal import (
    AmbiguousRunError,
    RunCancelledError,
    RunNotFoundError,
)
from dspex.runtime.recent import Recent
from dspex.runtime.tracebacks import RecentTracebacks
from dspex.worker.run_record import STATUSES, Follower, RunEvent, RunRecord, Status

Execute: TypeAlias = Callable[[RunRecord], Awaitable[Run]]

MAX_FINISHED: Final = 1_000
MAX_FINISHED_BYTES: Final = 64 * 1024 * 1024
MAX_UNFINISHED: Final = 1_000


class TooManyRunsError(DspexError):
    """As many runs as may be are unfinished; try again when one has ended."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} runs are unfinished, which is the limit: wait")
        self.limit = limit


class KeyReusedError(DspexError):
    """The idempotency key belongs to a run of another program or other inputs."""

    def __init__(self, key: str, run: str) -> None:
        super().__init__(
            f"idempotency key {key!r} belongs to run {run!r}, which has another "
            "program or other inputs: use a new key"
        )
        self.key = key
        self.run = run


class RunTable:
    """The unfinished runs, and the last of the finished ones."""

    def __init__(self, *, max_unfinished: int = MAX_UNFINISHED) -> None:
        self.max_unfinished = max_unfinished
        self.counts: dict[Status, int] = dict.fromkeys(STATUSES, 0)
        """How many runs are in each status, those that are forgotten included."""
        self.accepted = 0
        self.tokens: Counter[str] = Counter()
        self._records: dict[str, RunRecord] = {}
        self._keys: dict[str, str] = {}
        self._finished = Recent[str](most=MAX_FINISHED, max_bytes=MAX_FINISHED_BYTES)
        self._tracebacks = RecentTracebacks()

    def __iter__(self) -> Iterator[RunRecord]:
        return reversed(list(self._records.values()))

    @property
    def is_full(self) -> bool:
        """Whether as many runs as may be are unfinished."""
        return len(self._records) - len(self._finished) >= self.max_unfinished

    @property
    def unfinished(self) -> list[RunRecord]:
        """The runs that are pending or running, oldest first."""
        return [it for it in self._records.values() if not it.is_finished]

    def get(self, run: str) -> RunRecord:
        """Give a run.

        Raises:
            RunNotFoundError: there is none of this id.
        """
        try:
            return self._records[run]
        except KeyError:
            raise RunNotFoundError(run) from None

    def find(self, beginning: str) -> str:
        """Give the id of the one run whose id is this, or begins with it.

        Raises:
            RunNotFoundError: there is none.
            AmbiguousRunError: there are several.
        """
        if beginning in self._records:
            return beginning
        found = [it for it in self._records if it.startswith(beginning)]
        if not found or not beginning:
            raise RunNotFoundError(beginning)
        if len(found) > 1:
            raise AmbiguousRunError(beginning)
        return found[0]

    def accept(
        self, program: Program, inputs: Mapping[str, Any], *, key: str | None
    ) -> tuple[RunRecord, bool]:
        """Add a run; with a key that is known give its run, and False.

        Raises:
            KeyReusedError: the key's run has another program or other inputs.
            TooManyRunsError: too many are unfinished.
        """
        if key is not None and key in self._keys:
            known = self._records[self._keys[key]]
            if known.program != program or dict(known.inputs) != dict(inputs):
                raise KeyReusedError(key, known.id)
            return known, False
        if self.is_full:
            raise TooManyRunsError(self.max_unfinished)
        self.accepted += 1
        record = RunRecord(uuid.uuid4().hex, program, inputs, key, self.accepted)
        self._records[record.id] = record
        if key is not None:
            self._keys[key] = record.id
        self._count("pending", 1)
        record.note("accepted", program=program.name)
        return record, True

    def has(self, run: str) -> bool:
        """Whether the run is known here."""
        return run in self._records

    def adopt(
        self,
        run: str,
        program: Program,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
        accepted_at: float,
    ) -> RunRecord:
        """Add a run that a store has accepted and that begins here, maybe again."""
        record = self._records.get(run)
        if record is None:
            self.accepted += 1
            record = RunRecord(
                run, program, inputs, number=self.accepted, accepted_at=accepted_at
            )
            self._records[run] = record
            self._count("pending", 1)
            record.note("accepted", program=program.name)
        self.began(record)
        return record

    def settle(self, run: str, ended: Run | None) -> None:
        """Take note of an adopted run's end; None: it has left this process."""
        record = self._records.get(run)
        if record is None and ended is not None:
            self._count(ended.status, 1)  # one that could not even begin
        if record is None or record.is_finished:
            return
        if ended is not None:
            self.finished(record, ended.status, run=ended, error=ended.error)
            return
        self._count(record.status, -1)
        del self._records[run]
        # Whoever waits for its events looks in the store.
        record.note("left")

    def began(self, record: RunRecord) -> None:
        """Take note that a run is under way."""
        if record.status == "pending":
            self._count("pending", -1)
            self._count("running", 1)
            record.status = "running"
        record.note("started")

    def finished(
        self,
        record: RunRecord,
        status: Status,
        *,
        run: Run | None = None,
        error: Exception | None = None,
    ) -> None:
        """Take note of a run's end; the oldest finished ones may be forgotten."""
        self._count(record.status, -1)
        self._count(status, 1)
        record.finish(status, run, error)
        for step in () if run is None else run.steps:
            for kind in ("input_tokens", "output_tokens"):
                self.tokens[kind.removesuffix("_tokens")] += step.usage.get(kind, 0)
        if error is not None:
            self._tracebacks.keep(error)
        for gone in self._finished.add(record.id, record.size_bytes):
            oldest = self._records.pop(gone)
            if oldest.key is not None:
                del self._keys[oldest.key]

    def _count(self, status: Status, change: int) -> None:
        self.counts[status] += change

    def follow(self, run: str, follower: Follower) -> None:
        """Wake somebody by each event of a run, if it is known here."""
        record = self._records.get(run)
        if record is not None:
            record.followers.add(follower)

    def unfollow(self, run: str, follower: Follower) -> None:
        """Take a `follow` back."""
        record = self._records.get(run)
        if record is not None:
            record.followers.discard(follower)

    async def wait_finished(self, run: str) -> RunRecord:
        """Wait for a run's end."""
        record = self.get(run)
        await record.wait_finished()
        return record

    async def next_events(self, run: str, *, after: int = 0) -> list[RunEvent]:
        """Give the events after `after`; wait for one. Empty: the run has ended."""
        record = self.get(run)
        while record.last_seq <= after:
            if record.is_finished:
                return []
            await record.wait_changed()
        return [event for event in record.events if event.seq > after]

    async def events(self, run: str, *, after: int = 0) -> AsyncGenerator[RunEvent]:
        """Give a run's events in order, from the one after `after` to its end.

        Of a run with very many events the oldest are not kept: the first that comes
        then has a higher `seq`.
        """
        while batch := await self.next_events(run, after=after):
            for event in batch:
                after = event.seq
                yield event


class Runs(Actor):
    """Runs what the table holds; one task each, which ends with this actor."""

    def __init__(self, table: RunTable, execute: Execute) -> None:
        self._table = table
        self._execute = execute
        self._mine: set[str] = set()

    async def init(self) -> None:
        """Take up the runs that an earlier incarnation did not finish."""
        for record in self._table.unfinished:
            await self.begin(record.id)

    async def begin(self, run: str) -> None:
        """Start an accepted run, unless it is under way."""
        if run not in self._mine:
            self._mine.add(run)
            record = self._table.get(run)
            record.scope = scope = trio.CancelScope()
            self.spawn(self._run, record, scope)

    async def cancel(self, run: str) -> None:
        """Cancel a run, unless it is finished."""
        record = self._table.get(run)
        if record.scope is not None:
            record.scope.cancel()

    async def _run(self, record: RunRecord, scope: trio.CancelScope) -> None:
        run: Run | None = None
        error: Exception | None = None
        with scope:
            self._table.began(record)
            try:
                run = await self._execute(record)
                error = run.error
            except Exception as raised:  # noqa: BLE001 - the run's outcome carries it
                error = raised
        self._mine.discard(record.id)
        if run is None and error is None:
            cancelled = RunCancelledError(record.id)
            self._table.finished(record, "cancelled", error=cancelled)
        else:
            status: Status = "succeeded" if error is None else "failed"
            self._table.finished(record, status, run=run, error=error)
