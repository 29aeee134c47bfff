"""The worker that `benchmarks.chaos` kills: resumes a store until it is empty."""

import argparse
import logging

import structlog
import trio

from benchmarks._chaos_program import MODULES, mixed
from dspex.providers import OpenAI
from dspex.runtime.journal import UNFINISHED
from dspex.worker.open_runtime import open_runtime


async def work(options: argparse.Namespace) -> None:
    """Accept the runs that are not there yet, and execute until none is left."""
    lm = OpenAI("fake", base_url=options.url, api_key="none", timeout=30)
    async with (
        lm,
        open_runtime(
            lm,
            modules=MODULES,
            store=options.store,
            max_running=options.concurrency,
            lease_seconds=options.lease,
        ) as rt,
    ):
        it = mixed(python=options.python)

        async def submit(number: int) -> None:
            await rt.submit(it, {"ticket": f"ticket {number}"}, key=f"run {number}")

        async with trio.open_nursery() as nursery:
            for number in range(options.runs):
                nursery.start_soon(submit, number)
        while await rt.journal.runs(states=UNFINISHED, limit=1):  # noqa: ASYNC110
            await trio.sleep(0.1)


def main() -> None:
    """Work on a store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--python", action="store_true")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    trio.run(work, parser.parse_args())


if __name__ == "__main__":
    main()
