"""The worker that `benchmarks.chaos` kills: resumes a store until it is empty."""

import argparse
import logging

import structlog
import trio

from dspex.modules import Module, ReAct
from dspex.providers import OpenAI
from dspex.runtime.engine import Program, Step, StepOptions
from dspex.runtime.journal import UNFINISHED
from dspex.worker.open_runtime import open_runtime


def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"what is known of {topic}"


class Agent(Module):
    """A ReAct agent with one tool, as a program as code."""

    def __init__(self) -> None:
        self.agent = ReAct("ticket -> advice", [look_up])

    async def forward(self, ticket: str) -> dict[str, object]:
        return {"advice": (await self.agent(ticket=ticket)).advice}


class Split(Module):
    """No model call: the parts of a ticket."""

    async def forward(self, ticket: str) -> dict[str, object]:
        return {"parts": [f"{ticket}, part {n}" for n in range(3)]}


def program(*, python: bool) -> Program:
    """Give a program with native steps, an agent, a map and maybe a dspy step."""
    reply = "ticket, summaries: list[str], advice -> reply"
    return Program(
        name="chaos",
        steps={
            "split": Step(module="Split", signature="ticket -> parts: list[str]"),
            "summaries": Step(
                module="ChainOfThought",
                signature="part -> summary",
                map={"part": "split.parts"},
                options=StepOptions(concurrency=3),
            ),
            "agent": Step(module="Agent", signature="ticket -> advice"),
            "reply": Step(
                module="dspy.Predict" if python else "ChainOfThought",
                backend="python" if python else "native",
                signature=reply,
                inputs={"summaries": "summaries.summary"},
            ),
        },
        outputs={"reply": "reply.reply"},
    )


async def work(options: argparse.Namespace) -> None:
    """Accept the runs that are not there yet, and execute until none is left."""
    modules = {"Agent": Agent, "Split": Split}
    lm = OpenAI("fake", base_url=options.url, api_key="none", timeout=30)
    async with (
        lm,
        open_runtime(
            lm,
            modules=modules,
            store=options.store,
            max_running=options.concurrency,
            lease_seconds=options.lease,
        ) as rt,
    ):
        it = program(python=options.python)

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
