"""`dspex runs resume`: finish every unfinished run of a store."""

import json
import math
from dataclasses import dataclass, replace

import trio
from rich.console import Console

from dspex.runtime.engine import Run
from dspex.runtime.journal import UNFINISHED
from dspex.worker.app import Runtime
from dspex.worker.logs import complain
from dspex.worker.models import read_lm
from dspex.worker.open_runtime import POOL, open_runtime
from dspex.worker.run_command import ALL_GOOD, NOTHING_DONE, SOME_FAILED

_ALL = 1_000_000


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
        unfinished = await runtime.journal.runs(states=UNFINISHED, limit=_ALL)
        ended: list[Run] = []
        async with trio.open_nursery() as nursery:
            for row in reversed(unfinished):
                nursery.start_soon(_finish, runtime, row.id, ended, options.as_json)
    failed = sum(run.error is not None for run in ended)
    if not options.as_json:
        Console(stderr=True).print(
            f"{len(ended)} runs resumed, {len(ended) - failed} succeeded"
        )
    if not failed:
        return ALL_GOOD
    return NOTHING_DONE if failed == len(ended) else SOME_FAILED


async def _finish(runtime: Runtime, run: str, ended: list[Run], as_json: bool) -> None:
    found = await runtime.result(run, timeout=math.inf)
    ended.append(found)
    if as_json:
        print(json.dumps(found.to_json()), flush=True)  # noqa: T201
    if found.error is not None:
        complain(f"{run}: {found.error}")
