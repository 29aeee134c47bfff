"""App: what a worker or an embedded runtime serves, as data."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from dspex.modules.module import Module
from dspex.providers.lm import LM
from dspex.runtime.bridge import PoolSettings
from dspex.runtime.engine import Program
from dspex.supervisors import ChildSpec, Supervisor
from dspex.worker.app import Runtime
from dspex.worker.open_runtime import (
    LEASE_SECONDS,
    MAX_RUNNING,
    POOL,
    KeepText,
    open_runtime,
)
from dspex.worker.runs import MAX_UNFINISHED


@dataclass(frozen=True, slots=True, init=False)
class App:
    """Programs, the model of their steps, and actors of your own.

    A program given as a path is read when the app is opened. Without an `lm` the
    embedded model is used. `children` are started last in the tree, and stopped
    first. `modules` are programs as code: what makes them, by the name that a step's
    `module` has. `pool` is for the processes of python steps: how many, within which
    limits.
    """

    programs: tuple[Program | str | Path, ...]
    lm: LM | None
    children: tuple[ChildSpec, ...]
    modules: Mapping[str, Callable[[], Module]]
    pool: PoolSettings | None

    def __init__(
        self,
        *programs: Program | str | Path,
        lm: LM | None = None,
        children: Iterable[ChildSpec] = (),
        modules: Mapping[str, Callable[[], Module]] = MappingProxyType({}),
        pool: PoolSettings | None = None,
    ) -> None:
        set_field = object.__setattr__
        set_field(self, "programs", programs)
        set_field(self, "lm", lm)
        set_field(self, "children", tuple(children))
        set_field(self, "modules", MappingProxyType(dict(modules)))
        set_field(self, "pool", pool)

    def with_lm(self, lm: LM | None) -> Self:
        """Give the same app with this model."""
        return type(self)(
            *self.programs,
            lm=lm,
            children=self.children,
            modules=self.modules,
            pool=self.pool,
        )

    @property
    def folders(self) -> list[Path]:
        """The folders that its program files are in."""
        files = [it for it in self.programs if not isinstance(it, Program)]
        return list(dict.fromkeys(Path(it).resolve().parent for it in files))

    def read_programs(self) -> list[Program]:
        """Give the programs, read anew where they are files.

        Raises:
            ProgramError: one cannot be read.
        """
        return [
            it if isinstance(it, Program) else Program.load(it) for it in self.programs
        ]


@asynccontextmanager
async def open_app(
    app: App,
    *,
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
    """Open a runtime with the app's programs loaded and its children started.

    Steps of the python backend find modules in the folders of the app's program files,
    too; `pool` holds where the app has none of its own; else it is as `open_runtime`.

    Raises:
        ProgramError: a program cannot be run as written.
        StartError, ChildStartError: an actor or process does not start.
    """
    programs = app.read_programs()
    async with open_runtime(
        app.lm,
        modules=app.modules,
        store=store,
        resume=resume,
        max_running=max_running,
        lease_seconds=lease_seconds,
        shutdown_timeout=shutdown_timeout,
        max_runs=max_runs,
        keep_text=keep_text,
        search_path=[*app.folders, *search_path],
        pool=app.pool or pool,
        embedded_timeout=embedded_timeout,
    ) as runtime:
        for program in programs:
            await runtime.load(program)
        for child in app.children:
            await runtime.root.call(Supervisor.start_child, child, timeout=60.0)
        yield runtime
