"""Runtime: the application's supervision tree, and programs run on it.

dspex                 one_for_one
├── models            the embedded model, where it is used
├── bridge            the process that hosts dspy, once a program needs it
├── modules           one actor for each native step, kept alive
└── runs              the accepted runs, one task each
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
import trio

from dspex.modules.hosted import BRIDGE_NAME, HostedBackend
from dspex.modules.native import NativeBackend
from dspex.providers.embedded import (
    Embedded,
    EmbeddedServer,
    find_model,
    require_llama,
)
from dspex.providers.lm import LM
from dspex.runtime import ActorRef, DspexError, Node, open_node
from dspex.runtime.bridge import BridgeUnavailableError, DspyPool, PoolSettings
from dspex.runtime.engine import (
    Backend,
    Engine,
    Plan,
    Program,
    ProgramError,
    Run,
    StepInFlight,
    make_plan,
)
from dspex.runtime.reasons import describe
from dspex.supervisors import (
    ChildSpec,
    ChildStartError,
    DynamicSupervisor,
    Supervisor,
    TreeNode,
    supervision_tree,
)
from dspex.worker.runs import MAX_UNFINISHED, RunEvent, RunRecord, Runs, RunTable
from dspex.worker.watching import WatchedBackend, WatchedLM, watched_run

ROOT: Final = "dspex"
MODELS: Final = "models"
BRIDGE: Final = "bridge"
MODULES: Final = "modules"
RUNS: Final = "runs"
EMBEDDED: Final = "embedded"

# An operator who kills a child every second should not bring the runtime down; a
# child that cannot start at all should, within seconds.
_INTENSITY: Final = 20
_PERIOD_SECONDS: Final = 10.0
_BRIDGE_SECONDS: Final = 90.0
_BRIDGE_ATTEMPTS: Final = 10
# A step's own deadline bounds its wait in the queue.
_POOL: Final = PoolSettings(
    min_size=1, max_size=4, spares=1, queue_limit=10_000, queue_timeout=3_600.0
)

log = structlog.get_logger("dspex")


class RuntimeStoppedError(DspexError):
    """The supervision tree gave up: a child died more often than it may."""

    def __init__(self, reason: object) -> None:
        super().__init__(
            f"the runtime stopped ({describe(reason)}): "
            "the log tells which child died too often, and why"
        )
        self.reason = reason


class ProgramNotFoundError(DspexError):
    """No program of this name is loaded."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"no program is named {name!r}; loaded are: {', '.join(known) or 'none'}"
        )
        self.name = name


class Runtime:
    """A running supervision tree that runs programs; made by `open_runtime`."""

    def __init__(
        self,
        node: Node,
        root: ActorRef[Supervisor],
        engine: Engine,
        *,
        table: RunTable,
    ) -> None:
        self.node = node
        self.root = root
        self.table = table
        self._engine = engine
        self._plans: dict[str, tuple[Program, Plan]] = {}
        self._preparing = trio.Lock()

    def plan(self, program: Program) -> Plan:
        """Check a program without starting anything.

        Raises:
            ProgramError: the program cannot be run as written.
        """
        return make_plan(program, self._engine.backends)

    async def load(self, program: Program) -> Plan:
        """Check a program and start what its steps need; `run` does it by itself.

        Raises:
            ProgramError: the program cannot be run as written.
            StartError: an actor that it needs cannot be started.
        """
        async with self._preparing:
            known = self._plans.get(program.name)
            if known is not None and known[0] == program:
                return known[1]
            if known is not None:
                raise ProgramError(
                    f"another program named {program.name!r} is loaded: "
                    "give this one a name of its own",
                    place=program.place("name"),
                )
            plan = self.plan(program)
            for name, step in program.steps.items():
                backend = self._engine.backends[step.backend]
                await backend.prepare(f"{program.name}/{name}", step)
            self._plans[program.name] = (program, plan)
            return plan

    def program(self, name: str) -> Program:
        """Give a loaded program by its name.

        Raises:
            ProgramNotFoundError: none has it.
        """
        try:
            return self._plans[name][0]
        except KeyError:
            raise ProgramNotFoundError(name, tuple(self._plans)) from None

    @property
    def programs(self) -> tuple[Plan, ...]:
        """The plans of the loaded programs."""
        return tuple(plan for _, plan in self._plans.values())

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

        Raises:
            ProgramError: the program cannot be run as written.
            RunInputError: an input is missing, unknown or of the wrong type.
        """
        plan = await self.load(self._named(program))
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
        nothing runs anew.

        Raises:
            ProgramError, RunInputError: as `run_inputs`.
            KeyReusedError: the key's run has another program or other inputs.
            TooManyRunsError: too many runs are unfinished.
        """
        plan = await self.load(self._named(program))
        plan.check_inputs(inputs)
        record, is_new = self.table.accept(plan.program, inputs, key=key)
        if is_new:
            runs: ActorRef[Runs] = await self.node.registry.wait_for(RUNS)
            try:
                await runs.cast(Runs.begin, record.id)
            except trio.Cancelled:
                self.table.finished(record, "cancelled")
                raise
        return record.id

    async def result(self, run: str) -> Run:
        """Wait for a run's end and give it; a failed one is given too.

        Raises:
            RunNotFoundError: there is no such run, or it is long finished.
            RunCancelledError: it was cancelled.
        """
        record = await self.table.wait_finished(run)
        if record.run is not None:
            return record.run
        assert record.error is not None
        raise record.error

    async def cancel(self, run: str) -> None:
        """Cancel a run and wait for its end; nothing happens to a finished one.

        Raises:
            RunNotFoundError: there is no such run.
        """
        if not self.table.get(run).is_finished:
            runs: ActorRef[Runs] = await self.node.registry.wait_for(RUNS)
            await runs.call(Runs.cancel, run)
            await self.table.wait_finished(run)

    def events(self, run: str, *, after: int = 0) -> AsyncGenerator[RunEvent]:
        """Give a run's events in order, from the one after `after` to its end.

        Raises:
            RunNotFoundError: there is no such run.
        """
        self.table.get(run)
        return self.table.events(run, after=after)

    async def execute(self, record: RunRecord) -> Run:
        """Run what was accepted; what its steps do becomes events of the record."""
        plan = await self.load(record.program)
        watched_run.set(record)
        return await self._engine.run(
            plan, plan.check_inputs(record.inputs), run_id=record.id
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


@asynccontextmanager
async def open_runtime(
    lm: LM | None = None,
    *,
    shutdown_timeout: float = 1.0,
    max_runs: int = MAX_UNFINISHED,
    keep_text: bool = True,
) -> AsyncGenerator[Runtime]:
    """Open a runtime for the length of an `async with` block.

    `lm` is the model of every step; None starts the embedded one (extra `local`).
    When the block is left, however, its actors and child processes end: orderly
    within `shutdown_timeout` seconds, killed after that.

    `max_runs` bounds the accepted runs that are unfinished. `keep_text` False keeps
    prompts and completions out of the events of runs.

    Raises:
        MissingPackageError: no `lm` was given and the extra `local` is not installed.
        RuntimeStoppedError: the supervision tree gave up; its actors have ended.
    """
    async with open_node(shutdown_timeout=shutdown_timeout) as node:
        models: list[ChildSpec] = []
        if lm is None:
            find_model()
            require_llama()
            models.append(ChildSpec(EMBEDDED, EmbeddedServer, name=EMBEDDED))
            lm = Embedded(node.registry, server=EMBEDDED)
        root = await node.start(
            Supervisor(
                [_supervisor(MODELS, models), _supervisor(BRIDGE, []), _MODULES],
                intensity=_INTENSITY,
                period=_PERIOD_SECONDS,
            ),
            name=ROOT,
        )
        backends = _backends(node, WatchedLM(lm, keep_text=keep_text))
        engine = Engine({name: WatchedBackend(it) for name, it in backends.items()})
        table = RunTable(max_unfinished=max_runs)
        runtime = Runtime(node, root, engine, table=table)
        runs = ChildSpec(RUNS, Runs, (table, runtime.execute), name=RUNS)
        await root.call(Supervisor.start_child, runs)
        node.nursery.start_soon(_watch_root, node, root)
        yield runtime


async def _watch_root(node: Node, root: ActorRef[Supervisor]) -> None:
    reason = await root.wait_exit()
    if not node.must_end.is_set():
        node.interrupt(RuntimeStoppedError(reason))


def root_cause(error: Exception) -> Exception:
    """Give what made a start fail: the innermost reason that is an error."""
    reason: object = getattr(error, "reason", None)
    return root_cause(reason) if isinstance(reason, Exception) else error


def _supervisor(name: str, children: list[ChildSpec]) -> ChildSpec:
    def start() -> Supervisor:
        return Supervisor(children, intensity=_INTENSITY, period=_PERIOD_SECONDS)

    return ChildSpec(name, start, name=name, type="supervisor")


_MODULES: Final = ChildSpec(
    MODULES,
    lambda: DynamicSupervisor(intensity=_INTENSITY, period=_PERIOD_SECONDS),
    name=MODULES,
    type="supervisor",
)


def _backends(node: Node, lm: LM) -> dict[str, Backend]:
    modules = node.registry.whereis(MODULES)
    bridge = node.registry.whereis(BRIDGE)
    assert modules is not None
    assert bridge is not None

    async def start_bridge() -> None:
        spec = ChildSpec(BRIDGE_NAME, DspyPool, (_POOL,), name=BRIDGE_NAME)
        # From its first start on a supervisor replaces what dies; what dies before
        # is replaced here.
        for attempt in range(1, _BRIDGE_ATTEMPTS + 1):
            if node.registry.whereis(BRIDGE_NAME) is not None:
                return
            try:
                await bridge.call(Supervisor.start_child, spec, timeout=_BRIDGE_SECONDS)
            except ChildStartError as error:
                cause = root_cause(error)
                if not isinstance(cause, DspexError) or (
                    isinstance(cause, BridgeUnavailableError)
                    or attempt == _BRIDGE_ATTEMPTS
                ):
                    raise cause from error
                log.warning("dspy_not_started", reason=str(cause), attempt=attempt)

    return {
        "native": NativeBackend(registry=node.registry, supervisor=modules, lm=lm),
        "python": HostedBackend(
            registry=node.registry, start_bridge=start_bridge, lm=lm
        ),
    }
