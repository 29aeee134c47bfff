"""Named refs: a ref that follows a name across restarts."""

from typing import Any, Final, TypeVar

from dspex.runtime.errors import NoProcessError
from dspex.runtime.mailbox import Mailbox
from dspex.runtime.reasons import NOPROC, ExitReason
from dspex.runtime.ref import ActorRef, Port, Turns
from dspex.runtime.registry import Names
from dspex.runtime.timers import Timers

ActorT = TypeVar("ActorT")


class NobodyPort:
    """The process behind a name that nobody has: dead, and never alive."""

    id: Final = 0
    task: Final = None
    actor: Final = None
    state: Final = "dead"
    is_alive = False
    is_serving = False
    exit_reason: ExitReason = NOPROC
    timers: Timers

    def __init__(self, name: str) -> None:
        self.name = name
        self.mailbox = Mailbox(1)
        self.sends = Turns()

    def signal(self, reason: ExitReason, *, sender: object) -> None:
        """Nobody is there to end."""

    async def wait_dead(self) -> ExitReason:
        """Nobody is there to wait for."""
        return NOPROC

    def children(self) -> list[ActorRef[Any]]:  # Any: of every class
        """Nobody has started anybody."""
        return []

    def add_name(self, registry: object, name: str) -> None:
        """Nobody can have a name."""

    def drop_name(self, registry: object, name: str) -> None:
        """Nobody has a name."""

    def name_in(self, registry: object) -> str | None:
        """Nobody has a name."""
        return None


class NamedRef(ActorRef[ActorT]):
    """A ref that looks its name up at each use, so it survives restarts.

    While nobody has the name: a call raises NoProcessError at once, a cast is
    dropped, a plain message raises NoProcessError, as OTP does with names.
    """

    __slots__ = ("_name", "_registry")

    def __init__(self, name: str, registry: Names) -> None:
        self._name = name
        self._registry = registry

    @property
    def port(self) -> Port:  # type: ignore[override]
        """Whoever has the name now."""
        ref = self._registry.whereis(self._name)
        nobody: Any = NobodyPort  # Any: it has no timers, and is never asked for them
        return nobody(self._name) if ref is None else ref.port

    @property
    def name(self) -> str:
        """The name it follows."""
        return self._name

    async def send(self, message: object) -> None:
        """Send a plain message to whoever has the name.

        Raises:
            NoProcessError: nobody has it.
        """
        self._check()
        await super().send(message)

    def send_nowait(self, message: object) -> None:
        """Send a plain message to whoever has the name, without waiting.

        Raises:
            NoProcessError: nobody has it.
            MailboxFullError: there is no room.
        """
        self._check()
        super().send_nowait(message)

    def _check(self) -> None:
        if self._registry.whereis(self._name) is None:
            raise NoProcessError(self._name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NamedRef):
            return (self._name, self._registry) == (other._name, other._registry)
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash(self._name)
