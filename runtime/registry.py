"""Registry: unique names for live actors, and groups that share a key."""

from typing import Any, Protocol

import trio

from dspex.runtime.errors import DspexError, NoProcessError
from dspex.runtime.ref import ActorRef

AnyRef = ActorRef[Any]  # Any: a registry holds actors of every class


class NameTakenError(DspexError):
    """The name belongs to another live actor."""

    def __init__(self, name: str) -> None:
        super().__init__(f"name {name!r} is taken by a live actor")
        self.name = name


class AlreadyNamedError(DspexError):
    """The actor has a name in this registry already."""

    def __init__(self, name: str, present: str) -> None:
        super().__init__(f"cannot take the name {name!r}: the actor is {present!r}")
        self.name = name
        self.present = present


class NameWaitTimeoutError(DspexError):
    """Nobody registered the name in time."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"no actor took the name {name!r} within {seconds:g}s")
        self.name = name
        self.seconds = seconds


class NameHolder(Protocol):
    """What must hear of an actor's life: whoever has a name of it."""

    def announce(self, name: str) -> None:
        """Take note that the actor of this name has finished its init."""
        ...

    def unregister(self, name: str, ref: AnyRef) -> None:
        """Free a name; called at the actor's death before anyone hears of it."""
        ...


class Names(NameHolder, Protocol):
    """What a registry must do to be used by `start(..., registry=...)`: OTP's `via`."""

    def whereis(self, name: str) -> AnyRef | None:
        """Give the live actor of this name, or None."""
        ...

    def register(self, name: str, ref: AnyRef) -> None:
        """Give a name to an actor; call `ref.port.add_name(self, name)`."""
        ...


class Registry:
    """Maps unique names to refs of live actors; there is no global one.

    A name is freed at its actor's death, before anyone hears of that death. Each
    entry may carry properties, plain facts for whoever looks the actor up.
    """

    def __init__(self) -> None:
        self._refs: dict[str, AnyRef] = {}
        self._properties: dict[str, dict[str, object]] = {}
        self._waiting: dict[str, trio.Event] = {}

    def register(self, name: str, ref: AnyRef) -> None:
        """Give a name to a live actor, which must have none here yet.

        Raises:
            NameTakenError: another live actor has it.
            AlreadyNamedError: the actor has another name.
            NoProcessError: the actor is dead.
        """
        if name in self._refs:
            raise NameTakenError(name)
        if not ref.is_alive:
            raise NoProcessError(ref.name)
        present = ref.port.name_in(self)
        if present is not None:
            raise AlreadyNamedError(name, present)
        self._refs[name] = ref
        ref.port.add_name(self, name)
        if ref.is_serving:
            self.announce(name)

    def announce(self, name: str) -> None:
        """Wake those who wait for the name: its actor has finished its init."""
        if self._waiting:
            event = self._waiting.pop(name, None)
            if event is not None:
                event.set()

    def unregister(self, name: str, ref: AnyRef) -> None:
        """Free a name if this actor has it."""
        if self._refs.get(name) == ref:
            del self._refs[name]
            self._properties.pop(name, None)
            if ref.is_alive:
                ref.port.drop_name(self, name)

    def whereis(self, name: str) -> AnyRef | None:
        """Give the live actor of this name, or None."""
        return self._refs.get(name)

    async def wait_for(self, name: str, timeout: float = 5.0) -> AnyRef:
        """Give the live, initialised actor of this name; wait if it is being started.

        Raises:
            NameWaitTimeoutError: nobody had the name within `timeout` seconds.
        """
        ref = self._refs.get(name)
        if ref is not None and ref.is_serving:
            # The call that follows lets others run; a cancel scope would cost more
            # than all the rest.
            await trio.lowlevel.checkpoint_if_cancelled()
            return ref
        with trio.move_on_after(timeout):
            while True:
                ref = self._refs.get(name)
                if ref is not None and ref.is_serving:
                    await trio.lowlevel.checkpoint()
                    return ref
                await self._waiting.setdefault(name, trio.Event()).wait()
        event = self._waiting.get(name)
        if event is not None and not event.statistics().tasks_waiting:
            del self._waiting[name]
        raise NameWaitTimeoutError(name, timeout)

    def names(self) -> list[str]:
        """List the registered names, in the order of registration."""
        return list(self._refs)

    def set_property(self, name: str, key: str, value: object) -> None:
        """Put a fact beside a registered name; it goes when the name does.

        Raises:
            NoProcessError: nobody has the name.
        """
        if name not in self._refs:
            raise NoProcessError(name)
        self._properties.setdefault(name, {})[key] = value

    def properties(self, name: str) -> dict[str, object]:
        """Give a copy of the facts beside a name; empty if there are none."""
        return dict(self._properties.get(name, {}))


class Groups:
    """Maps keys to any number of live actors, to publish to all: `pg`, `:duplicate`.

    An actor may join many keys, each once; it leaves at its death, before anyone
    hears of that.
    """

    def __init__(self) -> None:
        self._members: dict[str, dict[AnyRef, None]] = {}

    def join(self, key: str, ref: AnyRef) -> None:
        """Add a live actor to a key.

        Raises:
            NoProcessError: the actor is dead.
        """
        if not ref.is_alive:
            raise NoProcessError(ref.name)
        members = self._members.setdefault(key, {})
        if ref not in members:
            members[ref] = None
            ref.port.add_name(self, key)

    def leave(self, key: str, ref: AnyRef) -> None:
        """Take an actor out of a key, if it is there."""
        if ref in self._members.get(key, ()):
            self.unregister(key, ref)
            ref.port.drop_name(self, key)

    def members(self, key: str) -> list[AnyRef]:
        """List the live actors of a key in the order they joined."""
        return list(self._members.get(key, ()))

    def keys(self) -> list[str]:
        """List the keys that have members."""
        return list(self._members)

    async def publish(self, key: str, message: object) -> int:
        """Send a plain message to every member; give how many there were.

        Waits for room in full mailboxes, one member after the other.
        """
        members = self.members(key)
        for ref in members:
            await ref.send(message)
        if not members:
            await trio.lowlevel.checkpoint()
        return len(members)

    def announce(self, name: str) -> None:
        """Nothing waits for a group."""

    def unregister(self, name: str, ref: AnyRef) -> None:
        """Take a dead actor out of a key."""
        members = self._members.get(name)
        if members is not None:
            members.pop(ref, None)
            if not members:
                del self._members[name]
