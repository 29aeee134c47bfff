"""How long a worker may act for its runs."""

import pytest
import trio
import trio.testing

from dspex.runtime.engine.worker_lease import WorkerLease
from dspex.runtime.journal import StoreError


async def test_it_lasts_from_the_sending_of_a_beat_to_its_end() -> None:
    now = 100.0
    lease = WorkerLease(10.0, now=lambda: now)
    lease.renew(since=95.0)
    now = 104.9
    await lease.hold()
    now = 105.0
    held = trio.Event()

    async def hold() -> None:
        await lease.hold()
        held.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        lease.renew(since=94.0)  # a beat that took too long
        await trio.testing.wait_all_tasks_blocked()
        assert not held.is_set()
        lease.renew(since=104.0)
    assert held.is_set()


async def test_it_says_why_no_beat_arrives() -> None:
    lease = WorkerLease(10.0, now=lambda: 100.0)
    lease.fail(StoreError("runs.db", "it is locked"))
    with pytest.raises(StoreError, match="locked"):
        await lease.hold()
    lease.renew(since=100.0)
    await lease.hold()
