"""A worker that kills itself half-way, is started again, and pays nothing twice.

`python examples/resume.py` needs no key: it serves a model on loopback that counts what
it was asked. The first worker dies by SIGKILL in the middle of ten runs; the second one
finishes them.
"""

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import trio

from dspex import OpenAI, Program, Step, open_runtime
from dspex.testing import Answer, ProviderRequest, open_fake_provider

RUNS = 10
PROGRAM = Program(
    name="support",
    steps={
        "summarize": Step(module="Predict", signature="ticket -> summary"),
        "reply": Step(module="Predict", signature="ticket, summary -> reply"),
    },
)


async def work(store: str, url: str, die_after: int) -> None:
    """Accept the runs (again: the same keys are the same runs) and finish them."""
    async with (
        OpenAI("fake", base_url=url, api_key="none") as lm,
        open_runtime(lm, store=store, max_running=2) as rt,
    ):
        runs = [
            await rt.submit(PROGRAM, {"ticket": f"ticket {n}"}, key=f"ticket {n}")
            for n in range(RUNS)
        ]
        for done, run in enumerate(runs):
            if done == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            await rt.result(run)


def answer(request: ProviderRequest) -> Answer:
    schema = request.json["response_format"]["json_schema"]["schema"]
    text = json.dumps(dict.fromkeys(schema["properties"], "We are on it."))
    return Answer(text, delay=0.05)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "runs.db"))
        async with open_fake_provider(answer) as server:
            for die_after in (RUNS // 2, RUNS + 1):
                command = [sys.executable, __file__, store, server.url, str(die_after)]
                ended = await trio.run_process(command, check=False)
                asked = len(server.requests)
                print(f"worker ended with {ended.returncode}, {asked} calls so far")
            calls = Counter(str(it.json["messages"]) for it in server.requests)
        twice = sum(times - 1 for times in calls.values())
        print(
            f"{RUNS} runs of 2 calls: {len(calls)} calls were needed, {twice} repeated"
        )
        print("(repeated can only be what was under way when the worker died)")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        trio.run(work, sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        trio.run(main)
