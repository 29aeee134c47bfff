"""open_runtime: the application's supervision tree, and a Runtime on it.

dspex                 one_for_one
├── journal           the writer of the store, where there is one
├── models            the embedded model, where it is used
├── bridge            the process that hosts dspy, once a program needs it
├── modules           one actor for each native step, kept alive
└── runs              the accepted runs, one task each
"""

from collections.abc import (
    AsyncGenerator,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from dspex.modules.errors import ConfigError
from dspex.modules.hosted import BRIDGE_NAME, HostedBackend
from dspex.modules.module import Module
from dspex.modules.module_registry import ModuleRegistry
from dspex.modules.native import NATIVE_MODULES, NativeBackend
from dspex.modules.signature import Signature
from dspex.providers.embedded import DEFAULT_TIMEOUT, Embedded
from dspex.providers.embedded_server import (
    EmbeddedServer,
    find_model,
    require_llama,
)
from dspex.providers.lm import LM
from dspex.runtime import ActorRef, DspexError, Node, StartError, open_node
from dspex.runtime.bridge import BridgeUnavailableError, DspyPool, PoolSettings
from dspex.runtime.engine import (
    Backend,
    Engine,
)
from dspex.runtime.engine.run_board import RunBoard
from dspex.runtime.engine.runs import DurableRuns
from dspex.runtime.journal import (
    WRITER,
    BlockingStore,
    Bodies,
    Journal,
    open_store,
)
from dspex.runtime.log import get_logger
from dspex.runtime.node import require_trio
from dspex.supervisors import (
    ChildSpec,
    ChildStartError,
    DynamicSupervisor,
    Supervisor,
)
from dspex.worker.app import Runtime
from dspex.worker.durable import RUNS, DurableDesk
from dspex.worker.errors import RuntimeStoppedError
from dspex.worker.import_path import importable_folders
from dspex.worker.loaded_programs import MODULES
from dspex.worker.runs import MAX_UNFINISHED, Runs, RunTable
from dspex.worker.watching import WatchedBackend

KeepText: TypeAlias = bool | Literal["hash"]

_BODIES: Final[Mapping[KeepText, Bodies]] = {
    True: "keep",
    "hash": "hash",
    False: "drop",
}

ROOT: Final = "dspex"
MODELS: Final = "models"
BRIDGE: Final = "bridge"
EMBEDDED: Final = "embedded"

MAX_RUNNING: Final = 256
LEASE_SECONDS: Final = 10.0

# An operator who kills a child every second should not bring the runtime down; a
# child that cannot start at all should, within seconds.
_INTENSITY: Final = 20
_PERIOD_SECONDS: Final = 10.0
# Over the import of dspy and the start of the first processes, which are bounded.
_BRIDGE_MARGIN_SECONDS: Final = 30.0
_BRIDGE_ATTEMPTS: Final = 10
POOL: Final = PoolSettings(max_size=4)
"""Of python steps. A step's own deadline bounds its wait in the queue."""

log = get_logger()


@asynccontextmanager
async def open_runtime(
    lm: LM | None = None,
    *,
    modules: Mapping[str, Callable[[], Module]] | None = None,
    store: str | Path | None = None,
    resume: bool = True,
    max_running: int = MAX_RUNNING,
    lease_seconds: float = LEASE_SECONDS,
    shutdown_timeout: float = 1.0,
    max_runs: int = MAX_UNFINISHED,
    keep_text: KeepText = True,
    search_path: Sequence[str | Path] = (),
    pool: PoolSettings = POOL,
    embedded_timeout: float | None = None,
) -> AsyncGenerator[Runtime]:
    """Open a runtime for the length of an `async with` block.

    `lm` is the model of every step; None starts the embedded one (extra `local`), each
    of whose calls has `embedded_timeout` seconds, 120 by default.
    Steps of the python backend import `module:attribute` from the folders of
    `search_path`, from those of this process's `sys.path` when the first such step
    starts dspy, and what is installed. `pool` says how many
    processes run them, and within which limits.
    `modules` are programs as code: what makes them, by the name that a step's `module`
    has; their model calls are kept and answered like those of any step.
    When the block is left, however, its actors and child processes end: orderly
    within `shutdown_timeout` seconds, killed after that.

    With a `store`, a SQLite file or `postgresql://...`, runs are accepted when they
    are on disk, finished model calls are kept there, and at most `max_running` runs
    run at a time. The runtime executes whatever the store has pending, and takes over
    from workers that have shown no life for `lease_seconds`; with `resume` False only
    runs that it was asked for by `submit`, those with a used key included.

    Without one, `max_runs` bounds the accepted runs that are unfinished. `keep_text`
    False keeps prompts and completions out of the events of runs, and out of the
    store when a run has ended; with "hash" the store keeps their SHA-256 instead.

    Raises:
        NotTrioError: it is not opened under trio; `dspex.aio` and `dspex.sync` are for
            everybody else.
        MissingPackageError: no `lm` was given and the extra `local` is not installed.
        StoreError: the store cannot be opened.
        RuntimeStoppedError: the supervision tree gave up; its actors have ended.
    """
    require_trio("open_runtime")
    if isinstance(lm, str):
        raise TypeError(f"lm is the text {lm!r}; pass a model, such as OpenAI(...)")
    async with AsyncExitStack() as stack:
        opened: BlockingStore | None = None
        if store is not None:
            opened = await stack.enter_async_context(open_store(store))
        node = await stack.enter_async_context(
            open_node(shutdown_timeout=shutdown_timeout)
        )
        journal = None if opened is None else Journal(opened)
        first: list[ChildSpec] = []
        if journal is not None:
            first.append(ChildSpec(WRITER, journal.writer, name=WRITER))
        models: list[ChildSpec] = []
        hosts: list[ChildSpec] = []  # a new supervisor has what the one before had
        if lm is None:
            find_model()
            require_llama()
            models.append(ChildSpec(EMBEDDED, EmbeddedServer, name=EMBEDDED))
            seconds = DEFAULT_TIMEOUT if embedded_timeout is None else embedded_timeout
            lm = Embedded(node.registry, server=EMBEDDED, timeout=seconds)
        children = [
            *first,
            _supervisor(MODELS, models),
            _supervisor(BRIDGE, hosts),
            _MODULES,
        ]
        tree = Supervisor(children, intensity=_INTENSITY, period=_PERIOD_SECONDS)
        try:
            root = await node.start(tree, name=ROOT)
        except StartError as error:
            # What is wrong with the model, not with the supervisors above it.
            raise root_cause(error) from error
        backends = _backends(
            node, lm, search_path, settings=pool, modules=modules or {}, hosts=hosts
        )
        keeps = keep_text is True
        engine = Engine(
            {it: WatchedBackend(b, keep_text=keeps) for it, b in backends.items()}
        )
        table = RunTable(max_unfinished=max_runs)
        keeper = node.named(MODULES, DynamicSupervisor)
        started = ModuleRegistry(node.registry, keeper, lm=lm)
        if journal is None:
            runtime = Runtime(node, root, engine, table=table, modules=started, lm=lm)
            runs = ChildSpec(RUNS, Runs, (table, runtime.execute), name=RUNS)
        else:
            board = RunBoard(max_runs=max_running, on_end=table.settle)
            desk = DurableDesk(journal, node.registry, board)
            runtime = Runtime(
                node, root, engine, table=table, modules=started, desk=desk, lm=lm
            )
            desk.stored_plan = runtime.stored_plan
            runs = ChildSpec(
                RUNS,
                partial(
                    DurableRuns,
                    journal,
                    runtime.execute_stored,
                    board,
                    lease_seconds=lease_seconds,
                    resume=resume,
                    bodies=_BODIES[keep_text],
                ),
                name=RUNS,
            )
        await root.call(Supervisor.start_child, runs)
        node.nursery.start_soon(_watch_root, node, root)
        yield runtime


async def _watch_root(node: Node, root: ActorRef[Supervisor]) -> None:
    reason = await root.wait_exit()
    if not node.must_end.is_set():
        node.interrupt(RuntimeStoppedError(reason))


def root_cause(error: Exception) -> Exception:
    """Give what made a start fail: the innermost reason that is an error."""
    found: Exception = error
    inner: object = error
    while (inner := _inner(inner)) is not None:
        if isinstance(inner, Exception):
            found = inner
    return found


def _inner(reason: object) -> object:
    """Give what a reason or an error is about, if it has such a thing."""
    return getattr(reason, "reason", None) or getattr(reason, "detail", None)


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


def _make_module(
    make: Callable[[], Module],
    _signature: Signature,
    *,
    demos: Sequence[Mapping[str, Any]],  # Any: as the signature declares
    **config: object,
) -> Module:
    if demos or config:
        raise ConfigError(
            "config", {"demos": len(demos), **config}, "is not for a program as code"
        )
    return make()


def _backends(
    node: Node,
    lm: LM,
    search_path: Sequence[str | Path],
    *,
    settings: PoolSettings,
    modules: Mapping[str, Callable[[], Module]],
    hosts: list[ChildSpec],
) -> dict[str, Backend]:
    actors = node.named(MODULES, DynamicSupervisor)
    bridge = node.named(BRIDGE, Supervisor)

    async def start_bridge() -> None:
        folders = [*search_path, *importable_folders()]
        patience = 2 * settings.start_timeout + _BRIDGE_MARGIN_SECONDS
        pool = partial(DspyPool, settings, search_path=folders)
        spec = ChildSpec(BRIDGE_NAME, pool, name=BRIDGE_NAME)
        # From its first start on a supervisor replaces what dies; what dies before
        # is replaced here.
        for attempt in range(1, _BRIDGE_ATTEMPTS + 1):
            if hosts or node.registry.whereis(BRIDGE_NAME) is not None:
                return
            try:
                await bridge.call(Supervisor.start_child, spec, timeout=patience)
                hosts.append(spec)
            except ChildStartError as error:
                cause = root_cause(error)
                if not isinstance(cause, DspexError) or (
                    isinstance(cause, BridgeUnavailableError)
                    or attempt == _BRIDGE_ATTEMPTS
                ):
                    raise cause from error
                log.warning("dspy_not_started", reason=str(cause), attempt=attempt)

    return {
        "native": NativeBackend(
            registry=node.registry,
            supervisor=actors,
            lm=lm,
            modules={
                **NATIVE_MODULES,
                **{name: partial(_make_module, make) for name, make in modules.items()},
            },
        ),
        "python": HostedBackend(
            registry=node.registry, start_bridge=start_bridge, lm=lm
        ),
    }
