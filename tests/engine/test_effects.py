"""The effects of a run, and who waits for them."""

from collections.abc import Mapping

import pytest
import trio

from dspex.runtime.engine.effects import (
    Codec,
    EffectKey,
    EffectLog,
    FinishedEffect,
    Json,
)
from dspex.runtime.engine.errors import EffectAbandonedError, EffectDecodeError


class Kept:
    """A journal with what an earlier attempt has kept."""

    run = "r"

    def __init__(self, stored: Mapping[EffectKey, Json]) -> None:
        self.stored = stored

    async def hold(self) -> None:
        await trio.lowlevel.checkpoint()

    async def record(self, effect: FinishedEffect) -> None:
        raise AssertionError(effect)

    def note(self, kind: str, body: Mapping[str, Json]) -> None:
        raise AssertionError(kind)


async def never() -> int:
    raise AssertionError("asked anew")


async def test_what_was_kept_and_cannot_be_read_fails_and_is_not_asked_anew(
    nursery: trio.Nursery,
) -> None:
    number: Codec[int] = Codec("number", str, int)
    journal = Kept({("draft", "ask", 0): "7", ("draft", "tell", 0): "seven"})
    effects = EffectLog(nursery, journal).scope("draft")
    assert await effects.perform("ask", never, codec=number) == 7
    with pytest.raises(EffectDecodeError, match="with the version of dspex") as caught:
        await effects.perform("tell", never, codec=number)
    assert (caught.value.step, caught.value.kind) == ("draft", "number")


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


async def test_who_asks_after_the_run_hears_it_too_and_each_time() -> None:
    async with trio.open_nursery() as run:
        log = EffectLog(run)
    for _ in range(2):
        with trio.fail_after(1), pytest.raises(EffectAbandonedError, match="its run"):
            await log.scope("draft").perform("ask", never)
