"""A worker that may have lost its runs begins nothing that costs."""

from pathlib import Path

import pytest
import trio

from dspex import Program, Step, open_runtime
from dspex.runtime.journal import Journal, StoreError
from dspex.runtime.journal.records import Beat
from dspex.testing import ScriptedLM
from tests.integration.dspex_command import eventually

ANSWER = '{"a": "1", "b": "2"}'
PROGRAM = Program(
    name="two",
    steps={
        "first": Step(module="Predict", signature="q -> a"),
        "second": Step(module="Predict", signature="a -> b"),
    },
)


class Beats:
    """Beats of a journal that can be held up, and can fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = trio.Event()
        self.fault: StoreError | None = None
        self.are_held = False
        beat = Journal.beat

        async def held(journal: Journal, worker: str, runs: list[str]) -> Beat:
            if self.are_held:
                if self.fault is not None:
                    raise self.fault
                await self.go_on.wait()
            return await beat(journal, worker, runs)

        monkeypatch.setattr(Journal, "beat", held)


async def test_no_call_is_begun_before_it_is_known_whose_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Beats(monkeypatch)
    lm = ScriptedLM(lambda _: ANSWER, delay=0.8)
    async with open_runtime(lm, store=tmp_path / "s.db", lease_seconds=0.4) as rt:
        run = await rt.submit(PROGRAM, {"q": "?"})
        assert await eventually(lambda: len(lm.requests) == 1, seconds=10)
        beats.are_held = True
        with pytest.raises(trio.TooSlowError):
            await rt.result(run, timeout=2)
        # The first answer is kept; the lease had ended by then.
        assert len(await rt.journal.effects(run)) == len(lm.requests) == 1
        beats.are_held = False
        beats.go_on.set()
        ended = await rt.result(run, timeout=10)
    assert (ended.status, len(lm.requests)) == ("succeeded", 2)


async def test_beats_that_fail_interrupt_a_run_until_they_are_good_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = Beats(monkeypatch)
    beats.fault = StoreError("s.db", "no beat today")
    lm = ScriptedLM(lambda _: ANSWER, delay=0.8)
    async with open_runtime(lm, store=tmp_path / "s.db", lease_seconds=0.4) as rt:
        run = await rt.submit(PROGRAM, {"q": "?"})
        assert await eventually(lambda: len(lm.requests) == 1, seconds=10)
        beats.are_held = True
        with pytest.raises(StoreError, match="no beat today"):
            await rt.result(run, timeout=10)
        beats.are_held = False
        ended = await rt.result(run, timeout=10)
    assert (ended.status, len(lm.requests)) == ("succeeded", 2)
