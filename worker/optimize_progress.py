"""Progress of an evaluation or a compile: a bar, the score, cost so far, time left."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dspex.modules.optimizers import Outcome
from dspex.providers import Budget


class WorkProgress:
    """Shows phases one after another, each with its own bar."""

    def __init__(self, console: Console, budget: Budget, *, is_shown: bool) -> None:
        self._budget = budget
        self._task: TaskID | None = None
        self._scores: list[float] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}"),
            TextColumn("{task.fields[cost]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not is_shown,
        )

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show it for the length of a block."""
        with self._progress:
            yield

    def begin(self, phase: str, total: int | None) -> None:
        """Begin a phase of that many examples or candidates; None: nobody knows."""
        self._scores.clear()
        self._task = self._progress.add_task(phase, total=total, score="", cost="")

    def on_outcome(self, outcome: Outcome) -> None:
        """Count an example that was evaluated."""
        self._scores.append(outcome.score)
        mean = 100 * sum(self._scores) / len(self._scores)
        self.advance(f"{mean:.1f} %")

    def on_example(self, index: int, is_demo: bool) -> None:
        """Count a training example that was tried."""
        self._scores.append(is_demo)
        self.advance(f"{sum(self._scores):g} demos")

    def on_event(self, event: Mapping[str, Any]) -> None:  # Any: JSON
        """Count an evaluation that an optimizer of dspy has made."""
        if event["event"] == "evaluated":
            self.advance(f"{event['score']:.1f} %")

    def advance(self, score: str) -> None:
        """Count one, and show the score and what was spent."""
        if self._task is None:
            return
        self._progress.update(
            self._task, advance=1, score=score, cost=cost_text(self._budget)
        )

    def end(self) -> None:
        """End the phase; a compile may need less than was there."""
        if self._task is not None:
            done = self._progress.tasks[self._task].completed
            self._progress.update(self._task, total=done)


def cost_text(budget: Budget) -> str:
    """Say what was spent: dollars, or tokens where there is no price."""
    if budget.cost or not budget.usage.total_tokens:
        return f"${budget.cost:.4f}"
    return f"{budget.usage.total_tokens} tokens"
