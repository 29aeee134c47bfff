"""`dspex runs resume`: finish every unfinished run of a store."""

import json
import math
from dataclasses import dataclass, replace
from typing import Final

import trio
from rich.console import Console

from dspex.runtime.engine import Run
from dspex.runtime.journal import UNFINISHED, Journal
from dspex.worker.app import Runtime
from dspex.worker.logs import complain
from dspex.worker.models import read_lm
from dspex.worker.open_runtime import POOL, open_runtime
from dspex.worker.run_command import ALL_GOOD, NOTHING_DONE, SOME_FAILED

_PAGE: Final = 1_000
# Of each who waits the store is asked now and then.
_WAITED_FOR: Final = 1_000


@dataclass(frozen=True, slots=True)
class ResumeOptions:
    """What `dspex runs resume` was told."""

    store: str
    lm: str
    base_url: str | None
    concurrency: int
    timeout: float | None
    pool_max: int
    as_json: bool


async def resume_runs(options: ResumeOptions) -> int:
    """Finish the runs, print what comes out, and give the exit status.

    Raises:
        DspexError: the store or the model cannot be used at all.
    """
    lm = read_lm(options.lm, base_url=options.base_url, timeout=options.timeout)
    async with open_runtime(
        lm,
        store=options.store,
        max_running=options.concurrency,
        embedded_timeout=options.timeout,
        pool=replace(POOL, max_size=options.pool_max),
    ) as runtime:
        ended: list[Run] = []
        unfinished = reversed(await _find_unfinished(runtime.journal))

        async def finish_some() -> None:
            for run in unfinished:
                await _finish(runtime, run, ended, options.as_json)

        async with trio.open_nursery() as nursery:
            for _ in range(_WAITED_FOR):
                nursery.start_soon(finish_some)
    failed = sum(run.error is not None for run in ended)
    if not options.as_json:
        Console(stderr=True).print(
            f"{len(ended)} runs resumed, {len(ended) - failed} succeeded"
        )
    if not failed:
        return ALL_GOOD
    return NOTHING_DONE if failed == len(ended) else SOME_FAILED


async def _find_unfinished(journal: Journal) -> list[str]:
    """Give the ids of those that are unfinished now, newest first."""
    found: list[str] = []
    last: tuple[float, str] | None = None
    while page := await journal.summaries(states=UNFINISHED, before=last, limit=_PAGE):
        found += [run.id for run in page]
        last = page[-1].accepted_at, page[-1].id
    return found


async def _finish(runtime: Runtime, run: str, ended: list[Run], as_json: bool) -> None:
    found = await runtime.result(run, timeout=math.inf)
    ended.append(found)
    if as_json:
        print(json.dumps(found.to_json()), flush=True)  # noqa: T201
    if found.error is not None:
        complain(f"{run}: {found.error}")
