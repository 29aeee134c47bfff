"""LoadedPrograms: which programs can be run, by which plans, on which actors.

Those that were loaded on purpose stay until a reload. Those that only came with a run
stay as long as there is room: a service may make a program for each of its tenants.
"""

from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Final

import trio

from dspex.modules.errors import UnknownModuleError
from dspex.runtime.engine import Backend, Plan, Program, ProgramError, make_plan
from dspex.runtime.log import get_logger
from dspex.worker.errors import ProgramNotFoundError
from dspex.worker.runs import RunTable

MODULES: Final = "modules"
"""The supervisor of the actors of native steps."""

MAX_PASSING: Final = 1_000
"""How many programs that only came with a run stay loaded."""

# How long the actors of a program that is let go of may take to end.
_RELEASE_SECONDS: Final = 10.0

log = get_logger()


class LoadedPrograms:
    """Programs whose actors are started; of each name the last loaded is served.

    Over `max_passing` of those that only came with a run, the one that was not run for
    longest is let go of, unless a run of it is under way.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        table: RunTable,
        *,
        max_passing: int,
    ) -> None:
        self._backends = backends
        self._table = table
        self._max_passing = max_passing
        # The one that was not asked for for longest is first.
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._served: dict[str, Program] = {}
        self._lasting: set[str] = set()
        self._users: Counter[str] = Counter()
        self._preparing = trio.Lock()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of all that are loaded."""
        return tuple(self._plans.values())

    @property
    def served(self) -> tuple[Plan, ...]:
        """The plans that programs are run by when they are named: one for each name."""
        return tuple(self._plans[it.digest] for it in self._served.values())

    def named(self, name: str) -> Program:
        """Give the program of that name that is served.

        Raises:
            ProgramNotFoundError: none has it.
        """
        try:
            return self._served[name]
        except KeyError:
            raise ProgramNotFoundError(name, tuple(self._served)) from None

    def plan(self, program: Program) -> Plan:
        """Check a program without starting anything.

        Raises:
            ProgramError: the program cannot be run as written.
        """
        known = self._plans.get(program.digest)
        if known is not None:
            return known
        return make_plan(program, self._backends, actors=self._actors(program))

    def _actors(self, program: Program) -> str:
        """Give a prefix of its own to each version of a program that is loaded."""
        taken = any(it.program.name == program.name for it in self._plans.values())
        return f"{program.name}@{program.digest[:8]}" if taken else program.name

    async def prepare(self, program: Program) -> Plan:
        """Check a program and start what its steps need, unless that is done.

        Raises:
            ProgramError: the program cannot be run as written.
            StartError: an actor that it needs cannot be started.
        """
        known = self._plans.get(program.digest)
        if known is not None:
            self._plans.move_to_end(program.digest)
            return known
        async with self._preparing:
            known = self._plans.get(program.digest)
            if known is not None:
                return known
            plan = self.plan(program)
            for warning in plan.warnings:
                log.warning("program_odd", program=program.name, reason=warning)
            for name, step in program.steps.items():
                backend = self._backends[step.backend]
                try:
                    await backend.prepare(f"{plan.actors}/{name}", step)
                except UnknownModuleError as error:
                    place = program.place("steps", name, "module")
                    raise ProgramError(str(error), place=place, step=name) from error
            self._plans[program.digest] = plan
            with self.using(plan):
                await self._make_room()
            return plan

    async def serve(self, program: Program, *, lasting: bool) -> Plan:
        """Prepare a program, and serve it by its name from now on; raises as that.

        One that is not `lasting` stays as long as there is room.
        """
        plan = await self.prepare(program)
        if lasting:
            self._lasting.add(program.digest)
        self._served[program.name] = program
        return plan

    async def serve_only(self, programs: Iterable[Program]) -> dict[str, list[str]]:
        """Put these programs in the place of all that are served.

        The actors of others end with the first call that finds them without runs.
        Gives the names that were added, changed, removed and kept.

        Raises:
            ProgramError: one cannot be run as written; then nothing has changed.
            StartError: an actor that one needs cannot be started; as above.
        """
        wanted = {program.name: program for program in programs}
        for program in wanted.values():
            self.plan(program)
        lasting = {program.digest for program in wanted.values()}
        known, self._lasting = self._lasting, self._lasting | lasting
        try:
            for program in wanted.values():
                await self.prepare(program)
        except BaseException:
            self._lasting = known
            raise
        self._lasting = lasting
        before, self._served = self._served, wanted
        async with self._preparing:
            while unused := self._unused():
                await self._let_go(unused[0])
        both = [name for name in wanted if name in before]
        return {
            "added": [name for name in wanted if name not in before],
            "changed": [name for name in both if wanted[name] != before[name]],
            "removed": [name for name in before if name not in wanted],
            "kept": [name for name in both if wanted[name] == before[name]],
        }

    async def _make_room(self) -> None:
        """Let go of the programs beyond what may pass, as far as they are unused."""
        while sum(it not in self._lasting for it in self._plans) > self._max_passing:
            unused = self._unused()
            if not unused:
                return
            await self._let_go(unused[0])

    def _unused(self) -> list[str]:
        in_use = self._lasting | {it.program.digest for it in self._table.unfinished}
        return [it for it in self._plans if it not in in_use and not self._users[it]]

    async def _let_go(self, digest: str) -> None:
        """Forget a program and end its actors; nobody prepares one meanwhile."""
        plan = self._plans.pop(digest)
        name = plan.program.name
        if name in self._served and self._served[name].digest == digest:
            del self._served[name]
            # One that was loaded on purpose is served again.
            for other in self._plans.values():
                if other.program.name == name and other.program.digest in self._lasting:
                    self._served[name] = other.program
        with trio.move_on_after(_RELEASE_SECONDS, shield=True):
            for step_name, step in plan.program.steps.items():
                backend = self._backends[step.backend]
                await backend.release(f"{plan.actors}/{step_name}", step)

    @contextmanager
    def using(self, plan: Plan) -> Generator[None]:
        """Keep the actors of a plan for the length of the block."""
        self._users[plan.program.digest] += 1
        try:
            yield
        finally:
            self._users[plan.program.digest] -= 1
            if not self._users[plan.program.digest]:
                del self._users[plan.program.digest]
