"""A module as an actor: supervised, named, and no bottleneck.

The actor holds the module and what became of its calls. Each forward runs as its own
task, so a slow or failing one holds nobody up: a bad input fails its caller, not its
neighbours.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from dspex.modules.errors import ForwardQueueFullError, ForwardTimeoutError
from dspex.modules.module import Module
from dspex.modules.prediction import Prediction
from dspex.providers.lm import LM
from dspex.providers.messages import Usage
from dspex.runtime import Actor, Deferred, Refuse

log = structlog.get_logger(__name__)

HISTORY: Final = 1_000


@dataclass(frozen=True, slots=True)
class Execution:
    """One forward that ended: its inputs, and its prediction or its error."""

    inputs: Mapping[str, Any]  # Any: as the module declares them
    prediction: Prediction | None
    error: BaseException | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ModuleStats:
    """How many forwards ended well or badly, run now, wait; and tokens they took."""

    succeeded: int
    failed: int
    running: int
    waiting: int
    usage: Usage


class ModuleActor(Actor):
    """Runs the forwards of one module, at most `max_concurrency` at a time.

    Up to `max_waiting` more wait their turn, in order; a further one is refused with
    ForwardQueueFullError. A forward that takes longer than `timeout` seconds, without
    its wait, fails with ForwardTimeoutError. One whose caller has gone before its turn
    is not run.
    """

    def __init__(
        self,
        module: Module,
        lm: LM | None = None,
        *,
        max_concurrency: int = 50,
        max_waiting: int = 10_000,
        timeout: float = 300.0,
    ) -> None:
        self._module = module
        self._lm = lm
        self._slots = trio.Semaphore(max_concurrency)
        self._max_concurrency = max_concurrency
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._pending = 0
        self._succeeded = 0
        self._failed = 0
        self._usage = Usage()
        self._history: deque[Execution] = deque(maxlen=HISTORY)

    async def forward(
        self, inputs: Mapping[str, Any], lm: LM | None = None
    ) -> Deferred[Prediction]:  # Any: as the module declares them
        """Run the module's forward on `inputs`, with `lm` in place of the actor's.

        Raises:
            ForwardQueueFullError: too many wait already.
            ForwardTimeoutError: it took too long.
            DspexError: whatever the forward raises.
        """
        if self._pending >= self._max_concurrency + self._max_waiting:
            raise Refuse(
                ForwardQueueFullError(
                    self.name,
                    running=self._max_concurrency,
                    waiting=self._max_waiting,
                )
            )
        answer: Deferred[Prediction] = self.deferred()
        self._pending += 1
        self.spawn(self._forward, answer, self._module, dict(inputs), lm or self._lm)
        return answer

    async def get_stats(self) -> ModuleStats:
        """Tell how the forwards went so far."""
        running = min(self._pending, self._max_concurrency)
        return ModuleStats(
            self._succeeded, self._failed, running, self._pending - running, self._usage
        )

    async def get_history(self) -> tuple[Execution, ...]:
        """Give the last forwards that ended, oldest first, 1000 at most."""
        return tuple(self._history)

    async def _forward(
        self,
        answer: Deferred[Prediction],
        module: Module,
        inputs: Mapping[str, Any],  # Any: as the module declares them
        lm: LM | None,
    ) -> None:
        try:
            async with self._slots:
                if answer.is_wanted:
                    await self._run(answer, module, inputs, lm)
        finally:
            self._pending -= 1

    async def _run(
        self,
        answer: Deferred[Prediction],
        module: Module,
        inputs: Mapping[str, Any],  # Any: as the module declares them
        lm: LM | None,
    ) -> None:
        started = trio.current_time()
        found: Prediction | Exception = ForwardTimeoutError(self.name, self._timeout)
        try:
            with trio.move_on_after(self._timeout):
                found = await module.run(inputs, lm=lm)
        # The edge between a module and its callers: whatever a forward raises
        # is its caller's, and no reason for the other forwards to die.
        except Exception as error:  # noqa: BLE001
            found = error
        seconds = trio.current_time() - started
        if isinstance(found, Prediction):
            self._succeeded += 1
            self._usage += found.usage
            self._history.append(Execution(inputs, found, None, seconds))
            answer.reply(found)
        else:
            self._failed += 1
            self._history.append(Execution(inputs, None, found, seconds))
            log.info("forward_failed", actor=self.name, error=repr(found))
            answer.fail(found)
