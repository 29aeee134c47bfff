"""The worker that `dspex chaos` torments: `python -m dspex.testing.chaos_worker FILE`.

It is `dspex worker`, with a plan carried out inside: on its actors, its model calls,
its store, its clock, and on its processes where a message hits them. The model calls
that gave an answer, and what was done, are appended to files: they outlive a kill.
"""

import json
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
from pydantic import BaseModel

from dspex.providers import LM, Message, Request, Response
from dspex.providers.lm import Wrapper
from dspex.testing.fault_plan import Fault, FaultPlan
from dspex.testing.faults import Faults, inject
from dspex.testing.model_faults import FaultyLM
from dspex.worker.app import Runtime
from dspex.worker.application import App
from dspex.worker.logs import configure_logs
from dspex.worker.serve import run_worker
from dspex.worker.settings import read_settings

_WRITE_SECONDS: Final = 0.1


class ChaosOrders(BaseModel):
    """What the worker is told: its settings, the plan as YAML, where to write."""

    settings: dict[str, Any]  # Any: as WorkerSettings declares
    plan: str
    calls: Path
    injected: Path
    tallies: Path


class CountedLM(Wrapper[LM]):
    """A model whose answers are written down, one line each, when they are there."""

    def __init__(self, lm: LM, path: Path) -> None:
        super().__init__(lm)
        self._path = path

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request; see `LM.complete`."""
        request = Request.of(request)
        began = time.clock_gettime(time.CLOCK_REALTIME)
        response = await self._lm.complete(request, timeout=timeout)
        key = f"{self.name}:{request.fingerprint()}"
        _append(self._path, [{"fingerprint": key, "began": began}])
        return response


def is_for_the_worker(fault: Fault) -> bool:
    """Whether the worker carries it out; the others are for who watches it."""
    return not (fault.on == "process" and fault.is_timed)


class _Injection:
    def __init__(self, orders: ChaosOrders) -> None:
        plan = FaultPlan.from_yaml(orders.plan)
        kept = (it if is_for_the_worker(it) else plan.NEVER for it in plan.faults)
        self._plan = FaultPlan(tuple(kept), plan.seed)
        self._orders = orders
        self._model: FaultyLM | None = None

    def change_app(self, app: App) -> App:
        if app.lm is None:
            return app
        counted = CountedLM(app.lm, self._orders.calls)
        self._model = FaultyLM(counted, self._plan)
        return app.with_lm(self._model)

    @asynccontextmanager
    async def around(self, runtime: Runtime) -> AsyncGenerator[None]:
        with inject(runtime.node, self._plan, journal=runtime.journal) as faults:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_down, faults)
                yield
                nursery.cancel_scope.cancel()

    async def _write_down(self, faults: Faults) -> None:
        written = [0, 0]
        told = ""
        try:
            while True:
                await trio.sleep(_WRITE_SECONDS)
                self._write(faults, written)
                told = self._tell_tallies(faults, told)
        finally:
            self._write(faults, written)
            self._tell_tallies(faults, told)

    def _write(self, faults: Faults, written: list[int]) -> None:
        models = [] if self._model is None else self._model.injected
        for number, done in enumerate((faults.injected, models)):
            new = done[written[number] :]
            written[number] += len(new)
            _append(self._orders.injected, [it.to_data() for it in new])

    def _tell_tallies(self, faults: Faults, told: str) -> str:
        """Write down what became of each fault so far, if that is news."""
        models = [] if self._model is None else self._model.tallies
        found = {it.fault: it.to_data() for it in (*faults.tallies, *models)}
        line = {
            str(place): found[fault]
            for place, fault in enumerate(self._plan.faults)
            if fault in found and fault != FaultPlan.NEVER
        }
        text = json.dumps(line)
        if text != told:
            _append(self._orders.tallies, [line])
        return text


def _append(path: Path, lines: list[dict[str, Any]]) -> None:  # Any: JSON
    if lines:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(it) + "\n" for it in lines))


def main(arguments: list[str]) -> int:
    """Run the worker as the file of orders says."""
    (path,) = arguments
    orders = ChaosOrders.model_validate_json(Path(path).read_text(encoding="utf-8"))
    settings = read_settings(orders.settings)
    configure_logs(settings.log_level)
    injection = _Injection(orders)
    return run_worker(
        settings, change_app=injection.change_app, around=injection.around
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
