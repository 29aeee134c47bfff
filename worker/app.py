"""Runtime: programs, loaded and run on a supervision tree."""

import math
from collections.abc import (
    AsyncGenerator,
    Iterable,
    Mapping,
)
from typing import Any

import structlog
import trio

from dspex.modules.hosted import HostedBackend
from dspex.modules.module import Module
from dspex.modules.module_registry import ModuleRef, ModuleRegistry
from dspex.providers.lm import LM
from dspex.runtime import ActorRef, Node
from dspex.runtime.engine import (
    Backend,
    Engine,
    Plan,
    Program,
    Run,
    RunJournal,
    StepInFlight,
    StepRecord,
)
from dspex.runtime.journal import (
    Journal,
    RunRow,
)
from dspex.supervisors import (
    Supervisor,
    TreeNode,
    supervision_tree,
)
from dspex.supervisors.child_spec import Restart
from dspex.worker.durable import RUNS, DurableDesk
from dspex.worker.errors import NoStoreError
from dspex.worker.event_cursor import EventCursor
from dspex.worker.loaded_programs import MAX_PASSING, LoadedPrograms
from dspex.worker.run_record import RunEvent, RunRecord
from dspex.worker.run_spans import run_span
from dspex.worker.runs import Runs, RunTable
from dspex.worker.watching import WatchedBackend, watched_run


class Runtime:
    """A running supervision tree that runs programs; made by `open_runtime`."""

    def __init__(
        self,
        node: Node,
        root: ActorRef[Supervisor],
        engine: Engine,
        *,
        table: RunTable,
        modules: ModuleRegistry,
        desk: DurableDesk | None = None,
        lm: LM | None = None,
    ) -> None:
        self.node = node
        self.root = root
        self.table = table
        self.lm = lm
        self.modules = modules
        self._engine = engine
        self._desk = desk
        self._stored: dict[tuple[str, int], Program] = {}
        self._loaded = LoadedPrograms(engine.backends, table, max_passing=MAX_PASSING)

    async def start(
        self,
        module: Module,
        *,
        name: str,
        lm: LM | None = None,
        restart: Restart = "permanent",
        max_concurrency: int = 50,
        max_waiting: int = 10_000,
        timeout: float = 300.0,
    ) -> ModuleRef:
        """Start a module as a supervised actor; give a ref that follows its name.

        It asks `lm`, or the runtime's model. At most `max_concurrency` forwards run,
        each for up to `timeout` seconds, and `max_waiting` more wait for their turn.
        `modules` finds and lists those that were started.

        Raises:
            ChildStartError: the name is taken, or the actor did not start.
        """
        return await self.modules.start(
            module,
            name,
            lm=lm,
            restart=restart,
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            timeout=timeout,
        )

    def plan(self, program: Program) -> Plan:
        """Check a program without starting anything.

        Raises:
            ProgramError: the program cannot be run as written.
        """
        return self._loaded.plan(program)

    def backend(self, name: str) -> Backend:
        """Give what runs the steps of that `backend`."""
        found = self._engine.backends[name]
        return found.inner if isinstance(found, WatchedBackend) else found

    async def load(self, program: Program) -> Plan:
        """Check a program and start what its steps need; `run` does it by itself.

        Several versions of a program, of one name, can be loaded. They stay; of the
        programs that only came with a run the last 1,000 do.

        Raises:
            ProgramError: the program cannot be run as written.
            StartError: an actor that it needs cannot be started.
        """
        return await self._loaded.serve(program, lasting=True)

    def program(self, name: str) -> Program:
        """Give the program of that name that was loaded last.

        Raises:
            ProgramNotFoundError: none has it.
        """
        return self._loaded.named(name)

    @property
    def served(self) -> tuple[Plan, ...]:
        """The plans that programs are run by when they are named: one for each name."""
        return self._loaded.served

    @property
    def programs(self) -> tuple[Plan, ...]:
        """The plans of the loaded programs."""
        return self._loaded.plans

    async def reload(self, programs: Iterable[Program]) -> dict[str, list[str]]:
        """Put these programs in the place of all that are served by name.

        Runs that were accepted keep the program they were accepted with. What steps of
        the python backend run is imported anew, in new processes; a step under way
        keeps its own. The actors
        of programs that are not served any more end with the first reload that finds
        them without runs. Gives the names that were added, changed, removed and kept.

        Raises:
            ProgramError: one cannot be run as written; then nothing has changed.
            UnknownModuleError: the code of a python step cannot be imported; the
                programs have not changed.
            StartError: an actor that one needs cannot be started; as above.
        """
        wanted = list(programs)
        for program in wanted:
            self.plan(program)
        hosted = self.backend("python")
        if isinstance(hosted, HostedBackend):
            await hosted.renew()
            # Of programs that stay the same, too: their code may not be what it was.
            for step in (it for program in wanted for it in program.steps.values()):
                if step.backend == "python":
                    await hosted.prepare(step.module, step)
        return await self._loaded.serve_only(wanted)

    async def run(
        self,
        program: Program | str,
        /,
        **inputs: Any,  # Any: as declared
    ) -> Run:
        """Run a program and give the finished Run; see `run_inputs`."""
        return await self.run_inputs(program, inputs)

    async def run_inputs(
        self,
        program: Program | str,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
    ) -> Run:
        """Run a program on inputs by name, and give the finished Run.

        The program itself, or the name of a loaded one.
        A step whose actor or process dies is dispatched again; model calls that were
        finished or under way are not made anew. A step that fails makes the run a
        failed one, whose error is in the Run and raised by its `outputs`.

        With a store the run is accepted as by `submit`: it goes on when this call is
        cancelled, and when its process dies.

        Raises:
            ProgramError: the program cannot be run as written.
            RunInputError: an input is missing, unknown or of the wrong type.
            StoreError: it was not accepted.
        """
        if self._desk is not None:
            return await self.result(await self.submit(program, inputs))
        plan = await self._loaded.serve(self._named(program), lasting=False)
        with self._loaded.using(plan):
            return await self._engine.run(plan, plan.check_inputs(inputs))

    async def submit(
        self,
        program: Program | str,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
        *,
        key: str | None = None,
    ) -> str:
        """Accept a run that goes on by itself, and give its id.

        A `key` that was used before gives the id of the run it was used for, and
        nothing runs anew. With a store the run is on disk when this returns: it is
        finished by this process, or by the next that opens the store. A run of that key
        whose process is dead is taken up by this one.

        Raises:
            ProgramError, RunInputError: as `run_inputs`.
            KeyReusedError: the key's run has another program or other inputs.
            TooManyRunsError: too many runs are unfinished (without a store).
            StoreError: it was not accepted.
        """
        plan = await self._loaded.serve(self._named(program), lasting=False)
        checked = plan.check_inputs(inputs)
        if self._desk is not None:
            return await self._desk.submit(plan.program, checked, key=key)
        record, is_new = self.table.accept(plan.program, inputs, key=key)
        if is_new:
            runs: ActorRef[Runs] = await self.node.registry.wait_for(RUNS)
            try:
                await runs.cast(Runs.begin, record.id)
            except trio.Cancelled:
                self.table.finished(record, "cancelled")
                raise
        return record.id

    async def result(self, run: str, *, timeout: float = math.inf) -> Run:
        """Wait for a run's end and give it; a failed one is given too.

        With a store it may be any run there, whichever process executes it. That of a
        process that died waits for one that resumes (`dspex runs resume`, or `submit`
        with its key); only `timeout` bounds this.

        Raises:
            RunNotFoundError: there is no such run, or it is long finished.
            RunCancelledError: it was cancelled.
            StoreError: the store keeps it from going on. It is unfinished, and goes on
                when the store can be written again.
            trio.TooSlowError: it has not ended within `timeout` seconds.
        """
        if self._desk is not None:
            return await self._desk.result(run, timeout=timeout)
        if timeout != math.inf:
            with trio.fail_after(timeout):
                return await self.result(run)
        record = await self.table.wait_finished(run)
        if record.run is not None:
            return record.run
        assert record.error is not None
        raise record.error.with_traceback(None)

    async def cancel(self, run: str) -> None:
        """Cancel a run and wait for its end; nothing happens to a finished one.

        With a store it may be any run there: another process stops it with its next
        effect or beat.

        Raises:
            RunNotFoundError: there is no such run.
        """
        if self._desk is not None:
            await self._desk.cancel(run)
        elif not self.table.get(run).is_finished:
            runs: ActorRef[Runs] = await self.node.registry.wait_for(RUNS)
            await runs.call(Runs.cancel, run)
            await self.table.wait_finished(run)

    async def next_events(self, run: str, *, after: int = 0) -> list[RunEvent]:
        """Give the events after `after`; wait for one. Empty: the run has ended.

        Events of a run that this process executes are numbered from 1, those that
        come from the store by the store. Text of steps is not among them.

        Raises:
            RunNotFoundError: there is no such run.
        """
        cursor = EventCursor(self.table, self._desk, run, after=after, texts=False)
        return await cursor.next()

    async def events(self, run: str, *, after: int = 0) -> AsyncGenerator[RunEvent]:
        """Give a run's events in order, from the one after `after` to its end.

        The text of steps with `options.stream` comes between them while it is written,
        as events of the kind `delta`, of runs that this process executes.

        Raises:
            RunNotFoundError: there is no such run.
        """
        cursor = self.read_events(run, after=after)
        while batch := await cursor.next():
            for event in batch:
                yield event

    def read_events(self, run: str, *, after: int = 0) -> EventCursor:
        """Give a place in the events of a run, to read on from."""
        return EventCursor(self.table, self._desk, run, after=after)

    @property
    def has_store(self) -> bool:
        """Whether accepted runs are kept on disk."""
        return self._desk is not None

    @property
    def journal(self) -> Journal:
        """What the store has of programs, runs and effects.

        Raises:
            NoStoreError: the runtime has no store.
        """
        if self._desk is None:
            raise NoStoreError("journal")
        return self._desk.journal

    async def drain(self, *, timeout: float) -> bool:
        """Start no more runs and wait for those that run; whether all have ended.

        Those that have not stay in the store, and are resumed by the next process.

        Raises:
            NoStoreError: the runtime has no store.
        """
        if self._desk is None:
            raise NoStoreError("drain")
        return await self._desk.drain(timeout)

    async def stored_plan(self, name: str, version: int) -> Plan:
        """Give the plan of a program version that is in the store, nothing started.

        Raises:
            VersionNotFoundError: the store has none.
            ProgramError: it cannot be run by this process.
        """
        known = self._stored.get((name, version))
        if known is None:
            saved = await self.journal.program(name, version)
            known = Program.model_validate(saved.body)
            if len(self._stored) >= MAX_PASSING:
                del self._stored[next(iter(self._stored))]
            self._stored[name, version] = known
        return self.plan(known)

    async def execute_stored(
        self, row: RunRow, journal: RunJournal, progress: dict[str, StepRecord]
    ) -> Run:
        """Run what the store has; its steps become events of a record meanwhile."""
        plan = await self.stored_plan(row.program, row.version)
        record = self.table.adopt(row.id, plan.program, row.inputs, row.accepted_at)
        record.progress = progress
        watched_run.set(record)
        structlog.contextvars.bind_contextvars(run=row.id)
        with self._loaded.using(plan), run_span(row.id, row.program) as span:
            plan = await self._loaded.prepare(plan.program)
            inputs = plan.check_inputs(row.inputs)
            return span.ended(
                await self._engine.run(plan, inputs, journal=journal, progress=progress)
            )

    async def execute(self, record: RunRecord) -> Run:
        """Run what was accepted; what its steps do becomes events of the record."""
        plan = await self._loaded.prepare(record.program)
        watched_run.set(record)
        structlog.contextvars.bind_contextvars(run=record.id)
        inputs = plan.check_inputs(record.inputs)
        with run_span(record.id, record.program.name) as span:
            return span.ended(
                await self._engine.run(
                    plan, inputs, run_id=record.id, progress=record.progress
                )
            )

    def _named(self, program: Program | str) -> Program:
        return self.program(program) if isinstance(program, str) else program

    def tree(self) -> TreeNode:
        """Give a snapshot of the supervision tree."""
        return supervision_tree(self.root)

    @property
    def in_flight(self) -> tuple[StepInFlight, ...]:
        """The steps that run now, oldest first."""
        return self._engine.in_flight
