"""Related processes: links, monitors, children, and waiting for an end."""

import math
from collections.abc import Sequence
from typing import Any, cast

import trio
from trio.lowlevel import checkpoint, wait_task_rescheduled

from dspex.runtime.actor import (
    ActorT,
)
from dspex.runtime.envelope import (
    Info,
    ParentExit,
)
from dspex.runtime.messages import Down
from dspex.runtime.process_state import DeathWaiter, ProcessState
from dspex.runtime.reasons import (
    NOPROC,
    NORMAL,
    SHUTDOWN,
    ExitReason,
)
from dspex.runtime.ref import ActorRef
from dspex.runtime.registry import Names


class RelatedProcess(ProcessState):
    """A process that others are linked to, watch, start and wait for."""

    __slots__ = ()

    def end_with_starter(self) -> None:
        """End, for who starts it has given up; with the reason that ends that one.

        One that traps exits is killed: in its init it cannot hear of it.
        """
        starter = self.parent
        reason = None if starter is None else starter._signal_reason
        if starter is None or reason in (None, NORMAL) or self.actor.trap_exit:
            self.kill()
        else:
            self.link_signal(reason, starter)

    def _peer(self, ref: ActorRef[Any]) -> "RelatedProcess":  # Any: of every class
        return cast("RelatedProcess", self.node.process_of(ref))

    async def start_link(
        self,
        actor: ActorT,
        *,
        name: str | None,
        timeout: float,
        registry: Names | None,
    ) -> ActorRef[ActorT]:
        """Start an actor linked to this one, which is its parent."""
        return await self.node.start_process(
            actor, name=name, parent=self, timeout=timeout, registry=registry
        )

    def link(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Share the fate of `ref`, both ways."""
        self.link_process(self._peer(ref))

    def link_process(self, peer: "RelatedProcess") -> None:
        """Share the fate of a process, both ways."""
        if peer is self:
            return
        if not peer.is_alive:
            self.link_signal(NOPROC, peer)
            return
        self._add_link(peer)
        peer._add_link(self)

    def _add_link(self, peer: "RelatedProcess") -> None:
        if peer is self.parent:
            self._is_parent_linked = True  # a whole dict would cost each child 232 B
        elif self._links is None:
            self._links = {peer: None}
        else:
            self._links[peer] = None

    def _drop_link(self, peer: "RelatedProcess") -> None:
        if peer is self.parent:
            self._is_parent_linked = False
        elif self._links is not None:
            self._links.pop(peer, None)

    def children(self) -> "list[ActorRef[Any]]":  # Any: of every class
        """Give the refs of the live actors that it started with a link, in order."""
        return [peer.ref for peer in self._links or () if peer.parent is self]

    def unlink(self, ref: ActorRef[Any]) -> None:  # Any: of every class
        """Take a link back, both ways."""
        peer = self._peer(ref)
        self._drop_link(peer)
        if peer.is_alive:  # a name that nobody has gives no whole process
            peer._drop_link(self)

    def monitor(self, ref: ActorRef[Any]) -> int:  # Any: of every class
        """Ask for one Down message when `ref` ends."""
        peer = self._peer(ref)
        number = self.node.next_number()
        if self._watching is None:
            self._watching = {}
        self._watching[number] = peer
        if not peer.is_alive:
            self.mailbox.put_signal(Info(Down(number, ref, NOPROC)))
            return number
        if peer._monitors is None:
            peer._monitors = {}
        peer._monitors[number] = self
        return number

    def demonitor(self, monitor: int) -> None:
        """Take a monitor back; a Down that lies in the mailbox is dropped."""
        if self._watching is None:
            return
        peer = self._watching.pop(monitor, None)
        if peer is not None and peer._monitors is not None:
            peer._monitors.pop(monitor, None)

    def is_taken_back(self, message: object) -> bool:
        """Whether it is the Down of a monitor that was taken back since."""
        return isinstance(message, Down) and message.monitor not in (
            self._watching or ()
        )

    def _tell_links(self, reason: ExitReason, *, but_the_starter: bool) -> None:
        links, self._links = self._links, None
        parent = cast("RelatedProcess | None", self.parent)
        if self._is_parent_linked and parent is not None:
            parent._drop_link(self)
            # What `proc_lib:start_link` takes out of the starter's mailbox: it hears
            # of the end by the failed start.
            if not (but_the_starter and parent.actor.trap_exit):
                parent.link_signal(reason, self)
        for peer in links or ():
            cast("RelatedProcess", peer)._drop_link(self)
            peer.link_signal(reason, self)

    # The end, seen by others.

    async def wait_dead(self) -> ExitReason:
        """Wait until it has ended; give its exit reason."""
        await self._wait_dead(math.inf)
        return self.exit_reason

    async def _wait_dead(self, seconds: float) -> None:
        if not self.is_alive:
            await checkpoint()
            return
        waiter = DeathWaiter(
            trio.lowlevel.current_task(), deadline=self.timers.now() + seconds
        )
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters = [known for known in self._waiters if not known.settled]
            self._waiters.append(waiter)
        if seconds < math.inf:
            self.timers.add(waiter)
        await wait_task_rescheduled(waiter.abandon)

    def tell_to_end(self) -> None:
        """Send the exit signal `shutdown` as its parent does."""
        if self.is_alive:
            if self.actor.trap_exit:
                self.mailbox.put_system(ParentExit(SHUTDOWN))
            else:
                self._end_now(SHUTDOWN)

    async def end(self, timeout: float) -> ExitReason:
        """Tell it to shut down, wait `timeout` seconds, then kill; wait till dead."""
        if timeout > 0:
            self.tell_to_end()
        return await self._gone_within(timeout)

    async def _gone_within(self, seconds: float) -> ExitReason:
        if self.is_alive and seconds > 0:
            await self._wait_dead(seconds)
        if self.is_alive:
            self.kill()
            await self._wait_dead(math.inf)
        return self.exit_reason

    async def end_children(
        self,
        refs: Sequence[ActorRef[Any]],  # Any: of every class
        shutdowns: Sequence[float],
    ) -> list[ExitReason]:
        """Tell children to shut down, kill the late ones; give their exit reasons."""
        if not refs:
            await checkpoint()
            return []
        if len(refs) == 1:
            child = self._peer(refs[0])
            self.unlink(refs[0])
            return [await child.end(shutdowns[0])]
        children = [self._peer(ref) for ref in refs]
        for ref in refs:
            self.unlink(ref)
        for child, seconds in zip(children, shutdowns, strict=True):
            if seconds > 0:
                child.tell_to_end()
            else:
                child.kill()
        began = self.timers.now()
        for index in sorted(range(len(children)), key=shutdowns.__getitem__):
            left = shutdowns[index] - (self.timers.now() - began)
            await children[index]._gone_within(left)
        return [child.exit_reason for child in children]
