"""`dspex run`: run a program on one or many inputs."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from dspex.runtime.engine import Plan, Program
from dspex.worker.batch import Outcome, run_batch, run_row
from dspex.worker.inputs import BadInputError, Row, convert, read_pairs, read_rows
from dspex.worker.logs import complain
from dspex.worker.models import read_lm
from dspex.worker.open_runtime import POOL, open_runtime
from dspex.worker.tables import console, print_runs, step_text

ALL_GOOD = 0
SOME_FAILED = 1
NOTHING_DONE = 2


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `dspex run` was told."""

    program: Path
    pairs: tuple[str, ...]
    inputs_file: Path | None
    as_json: bool
    lm: str
    base_url: str | None
    concurrency: int
    timeout: float | None
    store: str | None = None
    pool_max: int = POOL.max_size


async def run_program(options: RunOptions) -> int:
    """Run the program, print what comes out, and give the exit status.

    Raises:
        DspexError: the program, the inputs or the model cannot be used at all.
    """
    program = Program.load(options.program)
    pairs = read_pairs(options.pairs)
    rows = None if options.inputs_file is None else list(read_rows(options.inputs_file))
    if rows is not None and not rows:
        raise BadInputError(f"{options.inputs_file}: there is no input in it")
    lm = read_lm(options.lm, base_url=options.base_url, timeout=options.timeout)
    # A program's own functions lie beside it.
    folder = options.program.resolve().parent
    async with open_runtime(
        lm,
        store=options.store,
        resume=False,
        max_running=options.concurrency,
        search_path=[folder],
        embedded_timeout=options.timeout,
        pool=replace(POOL, max_size=options.pool_max),
    ) as runtime:
        plan = runtime.plan(program)
        if rows is None:
            row = Row("--input", convert(pairs, plan.inputs))
            plan.check_inputs(row.inputs or {})
            await runtime.load(program)
            outcome = await run_row(runtime, program, row)
            _print_one(outcome, as_json=options.as_json)
            return ALL_GOOD if outcome.error is None else NOTHING_DONE
        rows = [_with_pairs(row, pairs, plan) for row in rows]
        await runtime.load(program)
        with Progress(
            console=Console(stderr=True), transient=True, disable=not on_terminal()
        ) as progress:
            task = progress.add_task(program.name, total=len(rows))

            def on_end(outcome: Outcome) -> None:
                progress.advance(task)
                if outcome.error is not None:
                    complain(f"{outcome.row.place}: {outcome.error}")

            def on_next(outcome: Outcome) -> None:
                if options.as_json:
                    print(json.dumps(outcome.to_json()), flush=True)  # noqa: T201

            outcomes = await run_batch(
                runtime,
                program,
                rows,
                concurrency=options.concurrency,
                on_end=on_end,
                on_next=on_next,
            )
    if not options.as_json:
        print_runs(console(), plan, outcomes)
    failed = sum(outcome.error is not None for outcome in outcomes)
    if not failed:
        return ALL_GOOD
    return NOTHING_DONE if failed == len(outcomes) else SOME_FAILED


def _with_pairs(row: Row, pairs: dict[str, str], plan: Plan) -> Row:
    """Fill a row's inputs up with those that the command line gives for all rows."""
    if row.inputs is None:
        return row
    return Row(row.place, {**convert(pairs, plan.inputs), **row.inputs})


def on_terminal() -> bool:
    """Whether somebody looks at stderr."""
    return sys.stderr.isatty()


def _print_one(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.to_json()), flush=True)  # noqa: T201
    if outcome.error is not None:
        complain(str(outcome.error))
    elif not as_json and outcome.run is not None:
        out = console()
        for name, value in outcome.run.given.items():
            out.print(f"[bold]{name}[/bold]: ", end="")
            out.print(str(value), markup=False, highlight=False, soft_wrap=True)
        for record in outcome.run.steps:
            out.print(
                f"[dim]{record.name} ({record.backend}): {step_text(record)}[/dim]"
            )
