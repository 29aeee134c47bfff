"""Waterfall: when the steps and calls of a run took place, drawn for a terminal."""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from dspex.runtime.engine.effects import step_of
from dspex.runtime.journal import EffectRow, Event, RunRow
from dspex.worker.stored_cost import stored_cost

_LABEL: Final = 28
_TOLD: Final = 38
_NARROWEST: Final = 10
_STEP_BAR: Final = "█"
_CALL_BAR: Final = "▒"


def print_waterfall(
    console: Console,
    row: RunRow,
    effects: Sequence[EffectRow],
    events: Sequence[Event],
) -> None:
    """Print a run: head, a bar for each step and each of its calls, then outputs."""
    head = f"[bold]{row.id}[/bold]  {row.program}@{row.version}  {row.state}"
    console.print(head + _cost(stored_cost(row)), highlight=False)
    _values(console, row.inputs)
    steps = _steps(row, events)
    starts = [step["started_at"] for step in steps if step["started_at"] is not None]
    starts += [effect.finished_at - effect.seconds for effect in effects]
    begin = min([row.started_at or row.accepted_at, *starts])
    ends = [effect.finished_at for effect in effects]
    ends += [
        step["started_at"] + step["seconds"]
        for step in steps
        if step["started_at"] is not None
    ]
    end = max([row.finished_at or begin, *ends, begin + 0.001])
    chart = _Chart(begin, end, max(_NARROWEST, console.width - _LABEL - _TOLD))
    for step in steps:
        told = f"{step['seconds']:6.2f} s  {_tokens(step['usage'])}"
        told += _cost(step.get("cost_usd"))
        if step.get("restarts"):
            told += f" ↻{step['restarts']}"
        started = step["started_at"]
        bar = "" if started is None else chart.bar(started, step["seconds"], _STEP_BAR)
        style = "red" if step.get("error") else "bold"
        _line(console, f"{step['name']} ({step['backend']})", bar, told, style=style)
        for effect in effects:
            if step_of(effect.path) == step["name"]:
                bar = chart.bar(
                    effect.finished_at - effect.seconds, effect.seconds, _CALL_BAR
                )
                told = f"{effect.seconds:6.2f} s  {_tokens(effect.usage)}"
                told += _cost(effect.usage.get("cost_usd"))
                _line(console, f"  {effect.kind}", bar, told, style="dim")
        if step.get("error"):
            console.print(f"  {step['error']}", style="red", markup=False)
    _values(console, row.outputs)
    if row.error is not None:
        console.print(f"  {row.error}", style="red", markup=False, highlight=False)


def _values(console: Console, values: dict[str, Any] | None) -> None:  # Any: JSON
    for name, value in (values or {}).items():
        console.print(f"  {name}: {value}", markup=False, highlight=False)


def _steps(row: RunRow, events: Sequence[Event]) -> list[dict[str, Any]]:  # Any: JSON
    """Give the records of a finished run, or what its events tell of one at work."""
    if row.steps is not None:
        return list(row.steps)
    steps: dict[str, dict[str, Any]] = {}  # Any: JSON
    for event in events:
        name = event.body.get("step")
        if event.kind == "step_started":
            steps[name] = {
                "name": name,
                "backend": event.body["backend"],
                "started_at": event.at,
                "seconds": 0.0,
                "usage": {},
            }
        elif event.kind == "step_finished" and name in steps:
            steps[name]["seconds"] = event.body["seconds"]
    return list(steps.values())


def _tokens(usage: Any) -> str:  # Any: JSON
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    return f"{tokens} tok" if tokens else ""


def _cost(dollars: float | None) -> str:
    """Give a cost; nothing for none, and for one that is not known."""
    return f"  ${dollars:.6f}" if dollars else ""


def _line(console: Console, label: str, bar: str, told: str, *, style: str) -> None:
    text = Text(f"{label[: _LABEL - 1]:{_LABEL}}", style=style)
    text.append(bar, style="cyan")
    text.append(told)
    console.print(text, no_wrap=True, crop=True)


class _Chart:
    """Times as columns of a terminal."""

    def __init__(self, begin: float, end: float, width: int) -> None:
        self._begin = begin
        self._scale = width / (end - begin)
        self._width = width

    def bar(self, started: float, seconds: float, mark: str) -> str:
        left = min(self._width - 1, max(0, int((started - self._begin) * self._scale)))
        length = min(self._width - left, max(1, round(seconds * self._scale)))
        return f"{' ' * left}{mark * length}{' ' * (self._width - left - length)}"
