"""What `dspex runs` does without a runtime: list, show, cancel, export, prune."""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final, get_args

import trio
from rich import box
from rich.console import Console
from rich.table import Table

from dspex.runtime import DspexError, open_node
from dspex.runtime.journal import (
    WRITER,
    Journal,
    RunRow,
    RunState,
    open_store,
)
from dspex.worker.stored_cost import stored_cost
from dspex.worker.waterfall import print_waterfall

_PAGE: Final = 100
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_STYLES: Final = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}


class BadArgumentError(DspexError):
    """An argument of the command line cannot be used."""


@asynccontextmanager
async def open_journal(
    store: str, *, must_exist: bool = True
) -> AsyncGenerator[Journal]:
    """Open a store with its writer, without a runtime.

    Raises:
        BadArgumentError: there is no such file, and one should not be made.
        StoreError: it cannot be opened.
    """
    is_file = "://" not in store
    if must_exist and is_file and not await trio.Path(store).exists():
        raise BadArgumentError(f"--store {store!r}: there is no such file")
    async with open_store(store) as opened, open_node() as node:
        journal = Journal(opened)
        await node.start(journal.writer(), name=WRITER)
        yield journal


async def list_runs(
    store: str,
    *,
    states: tuple[str, ...],
    program: str | None,
    limit: int,
    as_json: bool,
) -> int:
    """Print a table of runs."""
    known: tuple[RunState, ...] = get_args(RunState)
    wanted: list[RunState] = [state for state in known if state in states]
    if len(wanted) != len(set(states)):
        raise BadArgumentError(f"--state must be one of {', '.join(known)}")
    async with open_journal(store) as journal:
        if as_json:
            for run in await journal.runs(states=wanted, program=program, limit=limit):
                print(json.dumps(asdict(run)))  # noqa: T201
            return 0
        rows = await journal.summaries(states=wanted, program=program, limit=limit)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("run", "program", "state", "accepted", "seconds"):
        table.add_column(name)
    for row in rows:
        ended = row.finished_at or row.accepted_at
        seconds = f"{ended - row.accepted_at:.1f}" if row.is_finished else ""
        style = _STYLES.get(row.state, "")
        table.add_row(
            row.id[:12],
            f"{row.program}@{row.version}",
            f"[{style}]{row.state}[/{style}]" if style else row.state,
            _time(row.accepted_at),
            seconds,
        )
    Console().print(table)
    return 0


async def show_run(store: str, run: str, *, as_json: bool) -> int:
    """Print a run, and draw when its steps and calls took place."""
    async with open_journal(store) as journal:
        row = await _find(journal, run)
        if as_json:
            print(json.dumps(await _whole(journal, row)))  # noqa: T201
            return 0
        effects = await journal.effects(row.id)
        events = await journal.events(row.id)
    print_waterfall(Console(), row, effects, events)
    return 0


async def cancel_run(store: str, run: str) -> int:
    """Cancel a run and tell what became of it."""
    async with open_journal(store) as journal:
        row = await _find(journal, run)
        state = await journal.cancel(row.id)
    print(f"{row.id} {state}")  # noqa: T201
    return 0 if state == "cancelled" else 1


async def export_runs(store: str, runs: tuple[str, ...]) -> int:
    """Print runs whole, one JSON object a line."""
    async with open_journal(store) as journal:
        rows = [await _find(journal, run) for run in runs]
        if not runs:
            rows = await journal.runs(limit=_PAGE)
        while rows:
            for row in rows:
                print(json.dumps(await _whole(journal, row)))  # noqa: T201
            last = (rows[-1].accepted_at, rows[-1].id)
            rows = [] if runs else await journal.runs(before=last, limit=_PAGE)
    return 0


async def prune_runs(store: str, older_than: str) -> int:
    """Forget old runs and tell how many."""
    match = re.fullmatch(r"(\d+)([smhd])", older_than)
    if match is None:
        raise BadArgumentError(
            f"--older-than {older_than!r} is not an age: write 90s, 15m, 12h or 30d"
        )
    seconds = int(match[1]) * _SECONDS[match[2]]
    async with open_journal(store) as journal:
        pruned = await journal.prune(older_than=seconds)
    print(f"pruned {pruned} runs")  # noqa: T201
    return 0


async def _find(journal: Journal, run: str) -> RunRow:
    """Give the one run whose id is this, or begins with it."""
    return await journal.run(await journal.find_run(run))


async def _whole(journal: Journal, row: RunRow) -> dict[str, Any]:  # Any: JSON
    return {
        **asdict(row),
        "cost_usd": stored_cost(row),
        "effects": [asdict(effect) for effect in await journal.effects(row.id)],
        "events": [asdict(event) for event in await journal.events(row.id)],
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
