"""ModuleRegistry: modules started, supervised and found by name."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from dspex.modules.actor import ModuleActor
from dspex.modules.module import Module
from dspex.modules.module_state import ModuleState
from dspex.modules.parameter import Parameter, Snapshots
from dspex.modules.prediction import Prediction
from dspex.modules.queued_call import call_queued
from dspex.providers.lm import LM
from dspex.providers.messages import Usage
from dspex.runtime import ActorRef, NameWaitTimeoutError, NoProcessError
from dspex.runtime.registry import Registry
from dspex.supervisors import ChildSpec, DynamicSupervisor
from dspex.supervisors.child_spec import Restart

# How long one that has died may take to be there again.
_RESTART_SECONDS: Final = 5.0


class ModuleRef:
    """A module by its name: whoever has the name at the moment answers.

    A call made while the actor restarts, or is suspended, waits for it, up to `timeout`
    seconds.
    """

    def __init__(self, registry: Registry, name: str, *, timeout: float) -> None:
        self._registry = registry
        self.name = name
        self.timeout = timeout

    async def forward(self, /, **inputs: Any) -> Prediction:  # Any: as declared
        """Run the module on the inputs, when its turn comes; see `ModuleActor.forward`.

        The `timeout` that the module was started with begins with its turn.
        """
        ref = await self._ref()
        return await call_queued(
            ref, ModuleActor.forward, inputs, None, None, timeout=self.timeout
        )

    async def get_state(self) -> ModuleState:
        """Give parameters, executions and metrics."""
        return await (await self._ref()).call(ModuleActor.get_state)

    async def get_parameter(self, name: str) -> object:
        """Give a parameter's value."""
        return await (await self._ref()).call(ModuleActor.get_parameter, name)

    async def set_parameter(self, name: str, value: object) -> Parameter:
        """Set a parameter."""
        return await (await self._ref()).call(ModuleActor.set_parameter, name, value)

    async def checkpoint(self) -> dict[str, Any]:  # Any: JSON
        """Give the learned state as plain JSON."""
        return await (await self._ref()).call(ModuleActor.checkpoint)

    async def restore(self, checkpoint: Mapping[str, Any]) -> None:  # Any: JSON
        """Go back to a checkpoint."""
        await (await self._ref()).call(ModuleActor.restore, checkpoint)

    async def swap(self, module: Module) -> int:
        """Put another module in its place, without losing a call.

        Waits for the forwards that came before, those that wait for a turn included.
        """
        ref = await self._ref()
        return await call_queued(ref, ModuleActor.swap, module, timeout=self.timeout)

    async def _ref(self) -> ActorRef[ModuleActor]:
        return await self._registry.wait_for(self.name, timeout=self.timeout)


class ModuleRegistry:
    """Starts modules under a supervisor and knows those it started.

    Their parameters survive a crash. There is one restarter, the supervisor; this only
    gives it child specs and looks names up.
    """

    def __init__(
        self,
        registry: Registry,
        supervisor: ActorRef[DynamicSupervisor],
        *,
        lm: LM | None = None,
        timeout: float = 300.0,
        price: Callable[[Usage], float] | None = None,
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._lm = lm
        self._timeout = timeout
        self._price = price
        self._snapshots = Snapshots()
        self._kinds: dict[str, str] = {}

    async def start(
        self,
        module: Module,
        name: str,
        *,
        lm: LM | None = None,
        restart: Restart = "permanent",
        max_concurrency: int = 50,
        max_waiting: int = 10_000,
        timeout: float | None = None,
    ) -> ModuleRef:
        """Start a module under a name, and give a ref that follows the name.

        `timeout` is how many seconds one forward may take, without its wait; None means
        the registry's own.

        Raises:
            ChildStartError: the name is taken, or the actor did not start.
        """

        def build() -> ModuleActor:
            return ModuleActor(
                module,
                lm or self._lm,
                max_concurrency=max_concurrency,
                max_waiting=max_waiting,
                timeout=self._timeout if timeout is None else timeout,
                snapshots=self._snapshots,
                price=self._price,
            )

        spec = ChildSpec(name, build, name=name, restart=restart)
        await self._supervisor.call(DynamicSupervisor.start_child, spec)
        self._kinds[name] = type(module).__name__
        return self.find(name)

    def find(self, name: str) -> ModuleRef:
        """Give a ref that follows the name, whether or not it is there now."""
        return ModuleRef(self._registry, name, timeout=self._timeout)

    async def stop(self, name: str) -> None:
        """End a module and forget its parameters; forwards under way fail.

        As a supervisor's `terminate_child`. One that is being restarted is waited for.

        Raises:
            NoProcessError: no module of this registry has the name.
            CallTimeoutError: it did not end in time; it is ended all the same.
        """
        if name not in self._kinds:
            raise NoProcessError(name)
        del self._kinds[name]
        try:
            with suppress(NameWaitTimeoutError):  # it gave up
                ref: ActorRef[ModuleActor] = await self._registry.wait_for(
                    name, _RESTART_SECONDS
                )
                await self._supervisor.call(DynamicSupervisor.terminate_child, ref)
        finally:
            if name not in self._kinds:  # no other was started meanwhile
                self._snapshots.saved.pop(name, None)

    def list_modules(self, kind: str | None = None) -> tuple[str, ...]:
        """Name the modules that are alive, of one kind (a class name) or all."""
        return tuple(
            name
            for name, its_kind in self._kinds.items()
            if kind in (None, its_kind) and self._registry.whereis(name) is not None
        )
