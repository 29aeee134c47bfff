"""Tables of runs for a terminal."""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dspex.runtime.engine import StepRecord
from dspex.worker.batch import Outcome

_SHORT: Final = 12
_NARROWEST: Final = 14
_PADDING: Final = 2


def step_text(record: StepRecord, separator: str = " ") -> str:
    """Give what one step took: seconds, restarts if any, tokens."""
    usage = record.usage
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    restarts = f" [yellow]↻{record.restarts}[/yellow]" if record.restarts else ""
    return f"{record.seconds:.1f} s{restarts}{separator}{tokens} tok"


def print_runs(console: Console, outcomes: Sequence[Outcome], *, title: str) -> None:
    """Print two lines for each outcome: inputs, outputs, steps (↻ is restarts).

    Long texts are cut to what the terminal has room for.
    """
    rows = [_texts(outcome) for outcome in outcomes]
    names = list(dict.fromkeys(name for row in rows for name in row))
    longest = {
        name: max(len(name), *(len(row.get(name, "")) for row in rows))
        for name in names
    }
    records = next((o.run.steps for o in outcomes if o.run is not None), ())
    widths = _widths(longest, console.width - 2 - len(records) * (10 + _PADDING))
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in names:
        table.add_column(name, width=widths[name], overflow="fold")
    for record in records:
        table.add_column(f"{record.name}\n{record.backend}", width=10, no_wrap=True)
    for outcome, row in zip(outcomes, rows, strict=True):
        cells = [
            escape(shorten(row.get(name, ""), 2 * widths[name] - 8, placeholder=" …"))
            for name in names
        ]
        steps = outcome.run.steps if outcome.run is not None else ()
        cells += [step_text(record, "\n") for record in steps]
        table.add_row(*cells, style="red" if outcome.error is not None else None)
    console.print(table)


def _texts(outcome: Outcome) -> dict[str, str]:
    inputs: Mapping[str, Any] = outcome.row.inputs or {}  # Any: JSON
    given: Mapping[str, Any] = {}  # Any: whatever the signatures say
    if outcome.run is not None and outcome.error is None:
        given = outcome.run.given
    return {name: str(value) for name, value in {**inputs, **given}.items()}


def _widths(longest: Mapping[str, int], room: int) -> dict[str, int]:
    short = {name: width for name, width in longest.items() if width <= _SHORT}
    left = room - sum(width + _PADDING for width in short.values())
    long = len(longest) - len(short)
    each = max(_NARROWEST, left // long - _PADDING) if long else 0
    return {name: short.get(name, min(each, width)) for name, width in longest.items()}
