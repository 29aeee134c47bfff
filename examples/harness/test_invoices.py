"""What explore finds in the invoice office; run it with pytest."""

import pytest

from dspex import open_node
from dspex.testing import (
    Fault,
    FaultPlan,
    assert_every_caller_answered,
    explore,
    inject,
)
from examples.harness.invoices import Disk, bill, open_office

HARM = [
    Fault("crash", "sequencer", "next_number"),
    Fault("slow", "sequencer", "next_number", seconds=0.2),
    Fault("drop", "sequencer", "next_number"),
]


async def office(plan: FaultPlan, *, every: int) -> None:
    disk = Disk()
    async with open_node() as node:
        await open_office(node, disk, every=every)
        with inject(node, plan) as faults:
            await bill(node, disk, customers=9)
        assert_every_caller_answered(faults)
    twice = {number for number in disk.issued if disk.issued.count(number) > 1}
    assert not twice, f"customers share invoice numbers {sorted(twice)}"


async def with_the_bug(plan: FaultPlan) -> None:
    await office(plan, every=3)


async def without_it(plan: FaultPlan) -> None:
    await office(plan, every=1)


def test_explore_finds_the_bug_and_shrinks_the_plan() -> None:
    found = explore(with_the_bug, faults=HARM)
    assert found.failure is not None
    (fault,) = found.failure.plan.faults
    assert (fault.kind, fault.nth) == ("crash", 2)
    with pytest.raises(AssertionError, match="share invoice numbers"):
        found.check()


def test_the_repaired_office_survives_every_plan() -> None:
    explore(without_it, faults=HARM, seeds=range(100)).check()
