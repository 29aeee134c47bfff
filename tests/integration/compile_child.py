"""A compile that ends by SIGKILL at its next acceptance; see test_compile_resume.py.

`python compile_child.py`: for each line [STORE, ASKED, KILL_AT] of JSON a process of
its own compiles and evaluates, kept in STORE. It appends the fingerprint of each call
that reaches the model to ASKED, and kills itself when it has taken KILL_AT examples as
demos (0: never). Prints its status and what it said. The processes are forked from this
one, which has done nothing but the imports: they would take each of them a second.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import structlog
import trio

from dspex.modules import ChatAdapter, Predict
from dspex.modules.optimizers import (
    BootstrapFewShot,
    Dataset,
    Evaluate,
    exact_match,
    open_work,
)
from dspex.providers import Capabilities, Choice, Message, Request, Response, Usage
from dspex.runtime import open_node
from dspex.runtime.journal import WRITER, Journal, open_store

# What is imported when a store is opened.
LATE = ("dspex.runtime.journal.store", "sqlalchemy.dialects.sqlite", "alembic.command")


class AskedLM:
    """Knows the answer for two questions of three, and writes down who asks it."""

    name = "test:asked"
    capabilities = Capabilities(json_schema=False)

    def __init__(self, asked: int) -> None:
        self._asked = asked

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        request = Request.of(request)
        number = int(request.messages[-1].text.split("\n")[1].split()[1])
        os.write(self._asked, f"{request.fingerprint()}\n".encode())
        await trio.sleep(0.002 * (number % 3))
        text = f"[[ ## answer ## ]]\n{number if number % 3 else '?'}"
        return Response((Choice(text),), Usage(50, 10), "asked")


async def main(store: str, asked: str, kill_at: int) -> None:
    taken = 0

    def on_example(_: int, is_demo: bool) -> None:
        nonlocal taken
        taken += is_demo
        if kill_at and taken == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    rows = [{"question": f"Item {i}", "answer": str(i)} for i in range(24)]
    train, dev = Dataset.from_rows(rows, inputs=["question"]).split(14, 10, seed=1)
    lm = AskedLM(os.open(asked, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    student = Predict("question -> answer", adapter=ChatAdapter())
    optimizer = BootstrapFewShot(
        metric=exact_match(), concurrency=4, max_rounds=2, on_example=on_example
    )
    async with open_store(store) as opened, open_node() as node:
        journal = Journal(opened)
        await node.start(journal.writer(), name=WRITER)
        async with open_work(journal, name="child", what={"seed": 1}) as work:
            made = await optimizer.compile(student, train, lm=lm, journal=work)
            evaluate = Evaluate(dev, metric=exact_match(), concurrency=4)
            evaluation = await evaluate(made.program, lm=lm, journal=work)
            await work.finish(made.report.to_json())
    demos = [dict(demo) for demo in made.program.demos]
    calls = made.report.calls + evaluation.calls
    replayed = made.report.replayed + evaluation.replayed
    found = {"demos": demos, "score": evaluation.score}
    counts = {"calls": calls, "replayed": replayed, "extra": made.report.extra_calls}
    sys.stdout.write(json.dumps({**found, **counts}))


def run_in_fork(store: str, asked: str, kill_at: int) -> tuple[int, str]:
    """Run it in another process; give how that ended, and what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        status = 1
        try:
            trio.run(main, store, asked, kill_at)
            sys.stdout.flush()
            status = 0
        except BaseException:  # noqa: BLE001 - nothing of the parent's goes on here
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for name in LATE:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run_in_fork(*json.loads(line))), flush=True)  # noqa: T201
