"""Registry: unique names for live actors."""

from typing import Any

import trio

from dspex.runtime.errors import DspexError
from dspex.runtime.ref import ActorRef

AnyRef = ActorRef[Any]  # Any: a registry holds actors of every class


class NameTakenError(DspexError):
    """The name belongs to another live actor."""

    def __init__(self, name: str) -> None:
        super().__init__(f"name {name!r} is taken by a live actor")
        self.name = name


class NameWaitTimeoutError(DspexError):
    """Nobody registered the name in time."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"no actor took the name {name!r} within {seconds:g}s")
        self.name = name
        self.seconds = seconds


class Registry:
    """Maps unique names to refs of live actors; there is no global one.

    A name is freed at its actor's death, before anyone hears of that death.
    """

    def __init__(self) -> None:
        self._refs: dict[str, AnyRef] = {}
        self._waiting: dict[str, trio.Event] = {}

    def register(self, name: str, ref: AnyRef) -> None:
        """Give a name to an actor.

        Raises:
            NameTakenError: another live actor has it.
        """
        if name in self._refs:
            raise NameTakenError(name)
        self._refs[name] = ref

    def announce(self, name: str) -> None:
        """Wake those who wait for the name: its actor has finished its init."""
        event = self._waiting.pop(name, None)
        if event is not None:
            event.set()

    def unregister(self, name: str, ref: AnyRef) -> None:
        """Free a name if this actor has it."""
        if self._refs.get(name) == ref:
            del self._refs[name]

    def whereis(self, name: str) -> AnyRef | None:
        """Give the live actor of this name, or None."""
        return self._refs.get(name)

    async def wait_for(self, name: str, timeout: float = 5.0) -> AnyRef:
        """Give the live, initialised actor of this name; wait if it is being started.

        Raises:
            NameWaitTimeoutError: nobody had the name within `timeout` seconds.
        """
        with trio.move_on_after(timeout):
            while True:
                ref = self._refs.get(name)
                if ref is not None and ref.is_serving:
                    await trio.lowlevel.checkpoint()
                    return ref
                await self._waiting.setdefault(name, trio.Event()).wait()
        raise NameWaitTimeoutError(name, timeout)

    def names(self) -> list[str]:
        """List the registered names, in the order of registration."""
        return list(self._refs)
