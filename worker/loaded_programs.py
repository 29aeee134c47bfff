"""LoadedPrograms: which programs can be run, by which plans, on which actors."""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Final

import trio

from dspex.modules.errors import UnknownModuleError
from dspex.runtime import ActorRef
from dspex.runtime.engine import Backend, Plan, Program, ProgramError, make_plan
from dspex.runtime.log import get_logger
from dspex.runtime.registry import Registry
from dspex.supervisors import DynamicSupervisor
from dspex.worker.errors import ProgramNotFoundError
from dspex.worker.runs import RunTable

MODULES: Final = "modules"
"""The supervisor of the actors of native steps."""

log = get_logger()


class LoadedPrograms:
    """Programs whose actors are started; of each name the last loaded is served."""

    def __init__(
        self, registry: Registry, backends: Mapping[str, Backend], table: RunTable
    ) -> None:
        self._registry = registry
        self._backends = backends
        self._table = table
        self._plans: dict[str, Plan] = {}
        self._served: dict[str, Program] = {}
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
            return plan

    async def serve(self, program: Program) -> Plan:
        """Prepare a program, and serve it by its name from now on; raises as that."""
        plan = await self.prepare(program)
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
        for program in wanted.values():
            await self.prepare(program)
        before, self._served = self._served, wanted
        await self._end_unused()
        both = [name for name in wanted if name in before]
        return {
            "added": [name for name in wanted if name not in before],
            "changed": [name for name in both if wanted[name] != before[name]],
            "removed": [name for name in before if name not in wanted],
            "kept": [name for name in both if wanted[name] == before[name]],
        }

    async def _end_unused(self) -> None:
        in_use = {it.program.digest for it in self._table.unfinished}
        in_use |= {program.digest for program in self._served.values()}
        modules: ActorRef[DynamicSupervisor] = await self._registry.wait_for(MODULES)
        for digest, plan in list(self._plans.items()):
            if digest in in_use or self._users[digest]:
                continue
            del self._plans[digest]
            for step in plan.program.steps:
                ref = self._registry.whereis(f"{plan.actors}/{step}")
                if ref is not None:
                    await modules.call(DynamicSupervisor.terminate_child, ref)

    @contextmanager
    def using(self, plan: Plan) -> Generator[None]:
        """Keep the actors of a plan for the length of the block."""
        self._users[plan.program.digest] += 1
        try:
            yield
        finally:
            self._users[plan.program.digest] -= 1
