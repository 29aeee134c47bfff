"""`dspex demo`: the main job on the embedded model, then the same under fire."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Final

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dspex.modules.hosted import BRIDGE_NAME
from dspex.runtime.bridge import DspyPool
from dspex.runtime.engine import Program
from dspex.worker.app import Runtime
from dspex.worker.batch import Outcome, run_batch
from dspex.worker.examples import find_example
from dspex.worker.inputs import Row, read_rows
from dspex.worker.open_runtime import open_runtime
from dspex.worker.run_command import ALL_GOOD, SOME_FAILED
from dspex.worker.tables import console as make_console
from dspex.worker.tables import print_runs

_CONCURRENCY: Final = 4
_LOOK_SECONDS: Final = 0.02
_ROUNDS_OF_HARM: Final = 2


async def run_demo() -> int:
    """Show the tree, the tickets answered, and the tickets answered under fire.

    Raises:
        DspexError: the model or dspy is not installed or does not start.
    """
    console = make_console()
    folder = find_example("triage")
    program = Program.load(folder / "program.yaml")
    rows = list(read_rows(folder / "tickets.jsonl"))
    started = time.monotonic()
    console.print(
        "Starting the embedded model (SmolLM2, 135M) and the dspy processes …"
    )
    async with open_runtime() as runtime:
        plan = await runtime.load(program)
        console.print(f"Ready after {time.monotonic() - started:.1f} s. The tree:\n")
        console.print(f"{runtime.tree()}\n", markup=False, highlight=False)
        calm = await _answer(console, runtime, program, rows, "Answering the tickets")
        print_runs(console, plan, calm, title="Every ticket, two steps each")
        console.print(
            "\nNow with faults: while tickets are in flight, the dspy processes are\n"
            "killed and the classify actor is crashed, twice each. What was paid for\n"
            "is kept.\n"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_do_harm, console, runtime, program)
            harmed = await _answer(console, runtime, program, rows, "Under fire")
            nursery.cancel_scope.cancel()
        print_runs(
            console, plan, harmed, title="The same under fire; ↻ counts restarts"
        )
        console.print("\nThe tree has its restarts:\n")
        console.print(f"{runtime.tree()}\n", markup=False, highlight=False)
    outcomes = [*calm, *harmed]
    good = [outcome.run for outcome in outcomes if outcome.error is None]
    restarts = sum(step.restarts for run in good if run for step in run.steps)
    console.print(
        f"{len(good)} of {len(outcomes)} tickets answered, "
        f"{restarts} steps dispatched again after a death, "
        f"in {time.monotonic() - started:.0f} s."
    )
    return ALL_GOOD if len(good) == len(outcomes) else SOME_FAILED


async def _answer(
    console: Console,
    runtime: Runtime,
    program: Program,
    rows: Sequence[Row],
    title: str,
) -> list[Outcome]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=len(rows))

        def on_end(outcome: Outcome) -> None:
            progress.advance(task)
            if outcome.error is not None:
                console.print(f"[red]{outcome.row.place}: {outcome.error}[/red]")

        return await run_batch(
            runtime, program, rows, concurrency=_CONCURRENCY, on_end=on_end
        )


async def _do_harm(console: Console, runtime: Runtime, program: Program) -> None:
    for _ in range(_ROUNDS_OF_HARM):
        await _until_in_flight(runtime, "reply")
        bridge = await runtime.node.registry.wait_for(BRIDGE_NAME)
        pids = await bridge.call(DspyPool.pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        listed = ", ".join(map(str, pids))
        console.print(f"[yellow]killed[/yellow] the dspy processes {listed} (SIGKILL)")
        await _until_in_flight(runtime, "classify")
        name = f"{program.name}/classify"
        actor = await runtime.node.registry.wait_for(name)
        actor.exit("crashed by the demo")
        console.print(f"[yellow]crashed[/yellow] the actor {name}")


async def _until_in_flight(runtime: Runtime, step: str) -> None:
    # A look at a snapshot: nobody sets an event for one step of one run.
    while not any(running.step == step for running in runtime.in_flight):  # noqa: ASYNC110
        await trio.sleep(_LOOK_SECONDS)
    # Far enough into the step that work would be lost if it were not kept.
    await trio.sleep(10 * _LOOK_SECONDS)
