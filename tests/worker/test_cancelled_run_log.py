"""What the log tells of a run that somebody has cancelled."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog
import trio

from dspex import open_runtime
from dspex.providers import Message, Request, Response
from dspex.runtime.journal import RunCancelledError
from dspex.testing import ScriptedLM
from tests.worker.triage_app import ANSWER, program


class Waiting(ScriptedLM):
    def __init__(self) -> None:
        super().__init__(lambda _: ANSWER)
        self.asked = trio.Event()
        self.go_on = trio.Event()

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        self.asked.set()
        await self.go_on.wait()
        return await super().complete(request, timeout=timeout)


async def test_a_run_that_learns_with_its_next_write_that_it_is_cancelled_is_no_warning(
    tmp_path: Path,
) -> None:
    lm = Waiting()
    with structlog.testing.capture_logs() as logs, trio.fail_after(20):
        async with open_runtime(lm, store=tmp_path / "runs.db") as rt:
            run = await rt.submit(program(), {"ticket": "x"})
            await lm.asked.wait()
            await rt.journal.cancel(run)  # as another process does
            lm.go_on.set()
            with pytest.raises(RunCancelledError):
                await rt.result(run)
    told = [it["log_level"] for it in logs if it["event"] == "run_interrupted"]
    assert told == ["debug"]
