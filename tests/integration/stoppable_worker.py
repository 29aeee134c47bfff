"""A worker that a test stops and continues: begins one run, and tells its end."""

import json
import sys
from typing import Any

import structlog
import trio

from dspex.providers import OpenAI
from dspex.runtime.engine import Program, Step
from dspex.worker.open_runtime import open_runtime

LEASE_SECONDS = 1.0

CHAIN = Program(
    name="chain",
    steps={
        "first": Step(module="Predict", signature="ticket -> summary"),
        "second": Step(module="Predict", signature="summary -> category"),
        "third": Step(module="Predict", signature="category -> reply"),
    },
)


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def work(store: str, url: str) -> None:
    async with (
        OpenAI("fake", base_url=url, api_key="none", timeout=60) as lm,
        open_runtime(lm, store=store, lease_seconds=LEASE_SECONDS) as rt,
    ):
        run = await rt.submit(CHAIN, {"ticket": "help"})
        tell(event="accepted", run=run)
        ended = await rt.result(run)
        tell(event="ended", outputs=dict(ended.outputs))


if __name__ == "__main__":
    structlog.configure(processors=[structlog.processors.JSONRenderer(default=str)])
    trio.run(work, sys.argv[1], sys.argv[2])
