"""Invoice numbers from a supervised actor, with a bug that only a restart shows.

The sequencer writes the last number down every third time, to spare the disk. A crash
in between makes its successor begin again at what was written, and two customers get
one number. No test without a crash sees it; `test_invoices.py` lets explore look.
"""

from dataclasses import dataclass, field

from dspex import Actor, ChildSpec, Supervisor
from dspex.runtime import CallError, Node

EVERY = 3


@dataclass
class Disk:
    """What outlives the actor."""

    last: int = 0
    issued: list[int] = field(default_factory=list[int])


class Sequencer(Actor):
    """Gives the next number to each customer."""

    def __init__(self, disk: Disk, *, every: int = EVERY) -> None:
        self._disk = disk
        self._every = every

    async def init(self) -> None:
        self._last = self._disk.last

    async def next_number(self) -> int:
        self._last += 1
        if self._last % self._every == 0:  # the bug: it should be each time
            self._disk.last = self._last
        return self._last


async def open_office(node: Node, disk: Disk, *, every: int = EVERY) -> None:
    """Start the sequencer under a supervisor."""

    def make() -> Sequencer:
        return Sequencer(disk, every=every)

    spec = ChildSpec("sequencer", make, name="sequencer")
    await node.start(Supervisor([spec], intensity=100, period=1.0), name="office")


async def bill(node: Node, disk: Disk, customers: int) -> None:
    """Give each customer a number; ask again when the sequencer died."""
    for _ in range(customers):
        while True:
            sequencer = await node.registry.wait_for("sequencer")
            try:
                number = await sequencer.call(Sequencer.next_number, timeout=1.0)
            except CallError:
                continue
            disk.issued.append(number)
            break
