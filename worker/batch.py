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
    on_done: Callable[[Outcome], None],
) -> list[Outcome]:
    """Run every row, `concurrency` at a time, and give the outcomes in row order.

    `on_done` is told of each as soon as all before it are done, so what it writes is
    in order too.
    """
    outcomes: list[Outcome | None] = [None] * len(rows)
    # With a store all are accepted at once, and it limits how many run.
    limit = trio.CapacityLimiter(
        concurrency if not runtime.has_store else max(1, len(rows))
    )
    told = 0

    async def work(index: int, row: Row) -> None:
        nonlocal told
        async with limit:
            outcomes[index] = await run_row(runtime, program, row)
        while told < len(rows) and (ready := outcomes[told]) is not None:
            told += 1
            on_done(ready)

    async with trio.open_nursery() as nursery:
        for index, row in enumerate(rows):
            nursery.start_soon(work, index, row)
    return [outcome for outcome in outcomes if outcome is not None]
