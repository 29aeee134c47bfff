"""The effects of a run, and who waits for them."""

import pytest
import trio

from dspex.runtime.engine.effects import EffectLog
from dspex.runtime.engine.errors import EffectAbandonedError


async def test_who_waits_outside_of_the_run_hears_that_it_has_ended(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    heard: list[str] = []

    async def wait(log: EffectLog) -> None:
        with pytest.raises(EffectAbandonedError) as caught:
            await log.scope("draft").perform("ask", trio.sleep_forever)
        heard.append(caught.value.path)

    async with trio.open_nursery() as run:
        log = EffectLog(run)
        nursery.start_soon(wait, log)
        nursery.start_soon(wait, log)
        await trio.testing.wait_all_tasks_blocked()
        run.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert heard == ["draft", "draft"]
