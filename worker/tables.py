"""Tables of runs for a terminal."""

import os
import sys
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dspex.runtime.engine import Plan, StepRecord
from dspex.worker.batch import Outcome

_SHORT: Final = 12
_NARROWEST: Final = 14
_PADDING: Final = 2
_LINES: Final = 3
_PIPED_WIDTH: Final = 200


def step_text(record: StepRecord, separator: str = " ") -> str:
    """Give what one step took: seconds, restarts if any, tokens."""
    usage = record.usage
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    restarts = f" [yellow]↻{record.restarts}[/yellow]" if record.restarts else ""
    return f"{record.seconds:.1f} s{restarts}{separator}{tokens} tok"


def console() -> Console:
    """Give a console on stdout; what is piped on is wide, not cut to 80 columns."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
    return Console(width=wide)


def print_runs(
    console: Console, plan: Plan, outcomes: Sequence[Outcome], *, title: str = ""
) -> None:
    """Print a few lines for each outcome: inputs, outputs, steps (↻ is restarts).

    Long texts are cut to what the terminal has room for.
    """
    names = [*plan.inputs, *(name for name in plan.outputs if name not in plan.inputs)]
    rows = [_texts(plan, outcome) for outcome in outcomes]
    longest = {
        name: max(len(name), *(len(row.get(name, "")) for row in rows), 0)
        for name in names
    }
    steps = plan.program.steps
    widths = _widths(longest, console.width - 2 - len(steps) * (10 + _PADDING))
    table = Table(
        title=title or plan.program.name,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in names:
        table.add_column(name, width=widths[name], overflow="fold")
    for name, step in steps.items():
        table.add_column(f"{name}\n{step.backend}", width=10, no_wrap=True)
    for outcome, row in zip(outcomes, rows, strict=True):
        cells = [
            escape(shorten(row.get(n, ""), _LINES * widths[n] - 10, placeholder=" …"))
            for n in names
        ]
        records = outcome.run.steps if outcome.run is not None else ()
        cells += [step_text(record, "\n") for record in records]
        table.add_row(*cells, style="red" if outcome.error is not None else None)
    console.print(table)


def _texts(plan: Plan, outcome: Outcome) -> dict[str, str]:
    texts = {name: str(value) for name, value in (outcome.row.inputs or {}).items()}
    if outcome.error is not None:
        # In the widest place that there is: the last output.
        texts[list(plan.outputs)[-1]] = f"failed: {outcome.error}"
    elif outcome.run is not None:
        texts |= {name: str(value) for name, value in outcome.run.given.items()}
    return texts


def _widths(longest: Mapping[str, int], room: int) -> dict[str, int]:
    short = {name: width for name, width in longest.items() if width <= _SHORT}
    left = room - sum(width + _PADDING for width in short.values())
    long = len(longest) - len(short)
    each = max(_NARROWEST, left // long - _PADDING) if long else 0
    return {name: short.get(name, min(each, width)) for name, width in longest.items()}
