"""Execution: one run that a worker executes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from dspex.runtime.engine.effects import FinishedEffect, RunJournal
from dspex.runtime.engine.run import Run, StepRecord
from dspex.runtime.journal import RunRow

# What an interrupted attempt made and could not keep; None at the first attempt.
Unsaved = tuple[FinishedEffect, ...] | None

# How far the steps of a run are.
Progress = dict[str, StepRecord]

# Executes a run, its effects kept in the journal, its steps told to the third.
ExecuteRun = Callable[[RunRow, RunJournal, Progress], Awaitable[Run]]


@dataclass(slots=True)
class Execution:
    """A run that executes here; `next` is a later claim of it, which waits its turn."""

    row: RunRow
    unsaved: Unsaved
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    progress: Progress = field(default_factory=dict[str, StepRecord])
    next: RunRow | None = None
