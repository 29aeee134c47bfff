"""Journal: programs, runs and effects in the store, for tasks under trio."""

import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import trio

from dspex.runtime.journal.errors import StoreBusyError, StoreLockedError
from dspex.runtime.journal.records import (
    Beat,
    EffectRow,
    Event,
    Json,
    ProgramVersion,
    RunRow,
    RunState,
    RunSummary,
    WorkerIdentity,
)
from dspex.runtime.journal.write_queue import (
    WriteQueue,
    WriterGoneError,
    WriteTimeoutError,
)
from dspex.runtime.journal.writer import JournalWriter
from dspex.runtime.journal.writes import (
    AcceptRun,
    AddEvent,
    BuryWorkers,
    CancelRun,
    ClaimRuns,
    PruneRuns,
    RegisterWorker,
    ReleaseRuns,
    SaveProgram,
    SendBeat,
    Write,
)
from dspex.runtime.threads import run_in_thread

T = TypeVar("T")

WRITER: Final = "journal"
"""The name under which the writer is found."""

WRITE_SECONDS: Final = 30.0
"""How long a write may take, the writer's own deaths included."""

READ_SECONDS: Final = 30.0
"""How long a read may take, its wait for one of the readers included."""

PRUNE_AT_ONCE: Final = 200
"""How many runs one commit forgets, with all their effects and events."""


def encode(value: object) -> str:
    """Give JSON text."""
    return msgspec.json.encode(value).decode()


class BlockingStore(Protocol):
    """What the journal needs of a store; its methods block."""

    @property
    def name(self) -> str:
        """The URL, without its password."""
        ...

    def open(self) -> None:
        """Create or upgrade the tables where needed."""
        ...

    def write(self, writes: Sequence[Write]) -> list[object]:
        """Apply writes in one commit."""
        ...

    def read(self, query: Callable[[Any], T]) -> T:  # Any: the database's connection
        """Give what a query finds."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class Journal:
    """What was accepted and finished, on disk.

    Writes are committed by the actor named `WRITER`, a `writer()` that a supervisor
    keeps alive: a write that its death left without an answer is asked for again.
    """

    def __init__(self, store: BlockingStore) -> None:
        self.store = store
        self._queue = WriteQueue()
        self._writers = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(4)

    @property
    def name(self) -> str:
        """The URL of the store, without its password."""
        return self.store.name

    def writer(self) -> JournalWriter:
        """Give a new incarnation of the writer, for a supervisor to start."""
        return JournalWriter(self.store, self._queue, self._writers)

    async def write(self, write: Write) -> Any:  # Any: as the write's docstring says
        """Give the answer to a write when it is on disk.

        Raises:
            StoreError: it is not on disk.
            LeaseLostError: the run belongs to another worker now.
            RunCancelledError: the run was cancelled.
        """
        deadline = trio.current_time() + WRITE_SECONDS
        while True:
            try:
                return await self._queue.ask(write, deadline)
            except WriterGoneError:
                continue
            except WriteTimeoutError as error:
                problem = f"no answer to a write within {WRITE_SECONDS:g} s"
                if self._queue.lock:
                    # The commit before it gave up; this one waited behind it.
                    problem = f"{problem}: {self._queue.lock}"
                    raise StoreLockedError(self.name, problem) from error
                raise StoreBusyError(self.name, problem) from error

    async def _read(self, query: Callable[..., T], *args: object, **kw: object) -> T:
        def ask(connection: object) -> T:
            return query(connection, *args, **kw)

        # Of a store that hangs the thread is left behind, and keeps its place.
        with trio.move_on_after(READ_SECONDS):
            return await run_in_thread(
                self.store.read, ask, limiter=self._readers, abandon_on_cancel=True
            )
        problem = f"no answer to a read within {READ_SECONDS:g} s"
        raise StoreBusyError(self.name, problem)

    async def save_program(
        self,
        name: str,
        body: Mapping[str, Json],
        *,
        parent: int | None = None,
        made_by: str = "",
        scores: Mapping[str, float] | None = None,
        always_new: bool = False,
    ) -> ProgramVersion:
        """Keep a program as a new version, unless a version says the same.

        With `always_new` only the newest version counts for that.
        """
        text = msgspec.json.encode(body, order="deterministic").decode()
        write = SaveProgram(
            name,
            sha256(text.encode()).hexdigest(),
            encode(body),
            parent,
            made_by,
            dict(scores or {}),
            time.time(),
            always_new,
        )
        return cast("ProgramVersion", await self.write(write))

    async def program(self, name: str, version: int | None = None) -> ProgramVersion:
        """Give a version of a program, the newest for None.

        Raises:
            VersionNotFoundError: it is not there.
        """
        return await self._read(_reads().read_program, name, version)

    async def programs(self, name: str | None = None) -> list[ProgramVersion]:
        """Give the versions of one program, or of all, oldest first."""
        return await self._read(_reads().read_programs, name)

    async def accept(self, write: AcceptRun) -> bool:
        """Keep a run; False if its id is there already, by another write."""
        return bool(await self.write(write))

    async def run(self, run: str) -> RunRow:
        """Give a run.

        Raises:
            RunNotFoundError: it is not there.
        """
        return await self._read(_reads().read_run, run)

    async def find_run(self, beginning: str) -> str:
        """Give the id of the one run whose id is this, or begins with it.

        Raises:
            RunNotFoundError: there is none.
            AmbiguousRunError: there are several.
        """
        return await self._read(_reads().find_run, beginning)

    async def owners(self, runs: Collection[str]) -> dict[str, str | None]:
        """Give who has each of these runs that is unfinished; None: it is pending."""
        return await self._read(_reads().read_owners, tuple(runs))

    async def runs(
        self,
        *,
        states: Sequence[RunState] = (),
        program: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        """Give the newest runs in any of these states (none: all), newest first.

        `before` is when the last run of the page before was accepted, and its id.
        """
        return await self._read(
            _reads().read_runs,
            states=states,
            program=program,
            before=before,
            limit=limit,
        )

    async def summaries(
        self,
        *,
        states: Sequence[RunState] = (),
        program: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int = 100,
    ) -> list[RunSummary]:
        """Give what `runs` gives, without what each was given and gave."""
        return await self._read(
            _reads().read_summaries,
            states=states,
            program=program,
            before=before,
            limit=limit,
        )

    async def effects(self, run: str) -> list[EffectRow]:
        """Give the finished effects of a run, in the order in which they finished."""
        return await self._read(_reads().read_effects, run)

    async def responses(self, run: str) -> dict[tuple[str, str, int], Json]:
        """Give the responses to a run's finished effects, without the requests.

        Each is by the effect's path, fingerprint and occurrence.
        """
        return await self._read(_reads().read_responses, run)

    async def events(self, run: str, *, after: int = 0) -> list[Event]:
        """Give what happened to a run after the event of that number."""
        return await self._read(_reads().read_events, run, after=after)

    async def claim(
        self, owner: str, *, limit: int, only: Sequence[str] | None = None
    ) -> list[RunRow]:
        """Make up to `limit` pending runs (of `only`) this owner's, oldest first."""
        those = None if only is None else tuple(only)
        write = ClaimRuns(owner, limit, time.time(), those)
        return cast("list[RunRow]", await self.write(write))

    def note(self, write: AddEvent) -> None:
        """Add an event with the next commit, or soon: nobody waits for it."""
        self._queue.note(write)

    async def release(self, owner: str, runs: Sequence[str]) -> None:
        """Give runs back, to be claimed by any worker."""
        await self.write(ReleaseRuns(owner, tuple(runs)))

    async def cancel(self, run: str) -> RunState | None:
        """Cancel a run whoever has it; give its state now, None if it is unknown."""
        return cast("RunState | None", await self.write(CancelRun(run, time.time())))

    async def register(self, worker: str, identity: WorkerIdentity) -> None:
        """Make a worker known to the others."""
        await self.write(RegisterWorker(worker, identity))

    async def beat(self, worker: str, runs: Sequence[str]) -> Beat:
        """Show that a worker lives, and learn of the others and of its own runs."""
        return cast("Beat", await self.write(SendBeat(worker, tuple(runs))))

    async def bury(self, workers: Sequence[str]) -> int:
        """Forget workers; give how many of their runs are pending again."""
        return cast("int", await self.write(BuryWorkers(tuple(workers))))

    async def prune(self, *, older_than: float) -> int:
        """Forget finished runs that ended `older_than` seconds ago; give how many.

        That is many commits, with pauses for others who write to the store. Those that
        were made stay when this fails or is cancelled.
        """
        write = PruneRuns(time.time() - older_than, PRUNE_AT_ONCE)
        pruned = 0
        while True:
            began = trio.current_time()
            gone = cast("int", await self.write(write))
            pruned += gone
            if gone < write.limit:
                return pruned
            await trio.sleep(trio.current_time() - began)


@asynccontextmanager
async def open_store(store: str | Path) -> AsyncGenerator[BlockingStore]:
    """Open a store for the length of an `async with` block; a path is a SQLite file.

    Open it before the node whose actors write to it, so that it is closed after them.

    Raises:
        StoreError: it cannot be opened; says why, and what to do.
    """
    opened = await run_in_thread(_open_store, store)
    try:
        yield opened
    finally:
        with trio.CancelScope(shield=True):
            await run_in_thread(opened.close)


def _open_store(store: str | Path) -> BlockingStore:
    # Here, not above: who has no store need not wait for SQLAlchemy.
    from dspex.runtime.journal.store import Store

    opened = Store(store)
    try:
        opened.open()
    except BaseException:
        opened.close()
        raise
    return opened


def _reads() -> Any:  # Any: a module
    from dspex.runtime.journal import reads

    return reads
