"""Batch: many runs of one program, some at a time, results in the order of inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from dspex.runtime import DspexError
from dspex.runtime.engine import Program, Run
from dspex.worker.app import Runtime
from dspex.worker.inputs import Row


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: a run, or why there is none."""

    row: Row
    run: Run | None
    error: Exception | None

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Give plain data of the same shape for every outcome."""
        data: dict[str, Any] = {  # Any: JSON
            "run_id": None,
            "status": "failed",
            "outputs": {},
            "steps": [],
        }
        if self.run is not None:
            data = self.run.to_json()
        if self.error is not None:
            data["error"] = f"{self.row.place}: {self.error}"
        return data


async def run_row(runtime: Runtime, program: Program, row: Row) -> Outcome:
    """Run one row; its failure is in the outcome."""
    if row.inputs is None:
        return Outcome(row, None, DspexError(row.problem or "no inputs"))
    try:
        run = await runtime.run_inputs(program, row.inputs)
    except DspexError as error:
        return Outcome(row, None, error)
    return Outcome(row, run, run.error)


async def run_batch(
    runtime: Runtime,
    program: Program,
    rows: Sequence[Row],
    *,
    concurrency: int,
    on_end: Callable[[Outcome], None] | None = None,
    on_next: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Run every row, `concurrency` at a time, and give the outcomes in row order.

    Rows begin in order. `on_end` is told of each as it ends; `on_next` in row order,
    of each as soon as all before it have ended. When this is cancelled, `on_next` is
    still told of all that have ended, so nothing that is done is lost.

    Raises:
        OSError: `on_next` raised it; the rest was cancelled.
    """
    ended: dict[int, Outcome] = {}
    told = 0
    waiting = iter(enumerate(rows))
    failure: OSError | None = None

    def tell(index: int) -> None:
        nonlocal failure
        if on_next is not None and failure is None:
            try:
                on_next(ended[index])
            except OSError as error:  # whoever reads the results has gone, say
                failure = error
                nursery.cancel_scope.cancel()

    async def work() -> None:
        nonlocal told
        for index, row in waiting:
            ended[index] = await run_row(runtime, program, row)
            if on_end is not None:
                on_end(ended[index])
            while told in ended:
                tell(told)
                told += 1

    nursery: trio.Nursery
    try:
        async with trio.open_nursery() as nursery:
            # With a store all are accepted at once, and it limits how many run.
            tasks = len(rows) if runtime.has_store else min(concurrency, len(rows))
            for _ in range(tasks):
                nursery.start_soon(work)
    finally:
        for index in sorted(ended):
            if index >= told:
                tell(index)
    if failure is not None:
        raise failure
    return [ended[index] for index in range(len(rows))]
