"""Observer waterfall: the spans of one run as bars on one axis, and its totals."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dspex.runtime.crash_report import REDACTED, is_secret_name, summarise
from dspex.runtime.journal import RunRow
from dspex.worker.app import Runtime
from dspex.worker.observer_spans import Span, spans_of_record, spans_of_row
from dspex.worker.run_views import JSON, is_finished, view_run

_WIDE: Final = 1_000.0
_NARROWEST: Final = 4.0
_TICKS: Final = 4
_STEPS: Final = (1.0, 2.0, 2.5, 3.0, 5.0, 10.0)
_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A span on the axis; `left` and `width` are thousandths of it."""

    span: Span
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on the axis, and the time there since the run was accepted."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """All that the page of a run shows; `run` is as the API gives it."""

    run: JSON
    inputs: dict[str, str]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    seconds: float
    is_finished: bool
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    marks: tuple[tuple[str, int], ...]


async def waterfall(runtime: Runtime, run: str) -> Waterfall:
    """Give the waterfall of a run, whether it is in memory or only in the store.

    Raises:
        RunNotFoundError: there is no such run.
    """
    view = await view_run(runtime, run)
    if runtime.table.has(run):
        return _draw(view, spans_of_record(runtime.table.get(run)))
    journal = runtime.journal
    row: RunRow = await journal.run(run)
    effects, events = await journal.effects(run), await journal.events(run)
    return _draw(view, spans_of_row(row, effects, events))


def _draw(view: JSON, spans: Sequence[Span]) -> Waterfall:
    start = min([view["accepted_at"], *(it.began for it in spans)])
    ends = [it.began + it.seconds for it in spans]
    end = max([view["finished_at"] or (0.0 if ends else time.time()), *ends])
    whole = max(end - start, 1e-6)
    calls = [it for it in spans if not it.is_step]
    costs = [it.cost for it in calls if it.cost is not None and it.tokens_in]
    marks = [mark for it in spans for mark in it.marks]
    return Waterfall(
        view,
        {
            name: REDACTED if is_secret_name(name) else summarise(value)
            for name, value in dict(view["inputs"]).items()
        },
        tuple(_bar(it, start, whole) for it in spans),
        ticks(whole),
        whole,
        is_finished(view),
        len(calls),
        sum(it.tokens_in for it in calls),
        sum(it.tokens_out for it in calls),
        sum(costs) if costs else None,
        tuple((mark, marks.count(mark)) for mark in dict.fromkeys(marks)),
    )


def _bar(span: Span, start: float, whole: float) -> Bar:
    width = min(_WIDE, max(_NARROWEST, _WIDE * span.seconds / whole))
    left = _WIDE * max(0.0, span.began - start) / whole
    return Bar(span, round(min(left, _WIDE - width), 1), round(width, 1))


def ticks(seconds: float) -> tuple[Tick, ...]:
    """Give about four places of a round number of seconds each."""
    rough = seconds / _TICKS
    scale = 1.0 if rough < _MINUTE else _MINUTE
    while scale > rough:
        scale /= 10
    while scale * 10 <= rough:
        scale *= 10
    every = next(it * scale for it in _STEPS if it * scale >= rough)
    count = int(seconds / every * 0.95)
    return tuple(
        Tick(round(_WIDE * place * every / seconds, 1), short_time(place * every))
        for place in range(count + 1)
    )


def short_time(seconds: float) -> str:
    """Give seconds in the unit that reads best."""
    if seconds == 0:
        return "0"
    if seconds < 1:
        return f"{seconds * 1_000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
