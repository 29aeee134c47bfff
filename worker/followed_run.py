"""FollowedRun: a run that is there for one follower, and ends when that one leaves."""

from collections.abc import Mapping
from typing import Any

import trio

from dspex.runtime.engine import Program
from dspex.runtime.journal import RunNotFoundError
from dspex.worker.app import Runtime


class FollowedRun:
    """Accepts a run, and cancels it whenever the follower leaves.

    Both methods run in the runtime's thread, each as a job that is never cancelled with
    its caller: the follower may leave while the run is accepted, when it may be on disk
    already, and may be cancelled again while this one's end is waited for.
    """

    def __init__(self) -> None:
        self._is_decided = trio.Event()
        self._runtime: Runtime | None = None
        self._run: str | None = None

    async def accept(
        self,
        runtime: Runtime,
        program: Program | str,
        inputs: Mapping[str, Any],  # Any: as the signatures declare
    ) -> str:
        """Accept the run, and give its id."""
        try:
            self._runtime = runtime
            self._run = await runtime.submit(program, inputs)
            return self._run
        finally:
            self._is_decided.set()

    async def withdraw(self) -> None:
        """Cancel the run, if it was or will be accepted, and wait for its end."""
        await self._is_decided.wait()
        if self._runtime is not None and self._run is not None:
            try:
                await self._runtime.cancel(self._run)
            except RunNotFoundError:
                return  # finished, so long ago that it is forgotten
