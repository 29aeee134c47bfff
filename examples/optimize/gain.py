"""Compile a program and measure what it gained: `python -m examples.optimize.gain`.

The model is a scripted one, so that it runs anywhere at once: it knows the answer for
every third town, and for all of them once it has seen demos of this kind.
"""

import trio

from dspex.modules import ChatAdapter, Predict
from dspex.modules.optimizers import (
    BootstrapFewShot,
    Dataset,
    Evaluate,
    compare_evaluations,
    exact_match,
)
from dspex.providers import Request
from dspex.testing import ScriptedLM

TOWNS = [f"Town {number}" for number in range(90)]


def answer(request: Request) -> str:
    users = [message.text for message in request.messages if message.role == "user"]
    number = int(users[-1].split("\n")[1].split()[1])
    knows = number % 3 == 0 or len(users) > 1
    return f"[[ ## zone ## ]]\n{number % 7 if knows else 'unknown'}"


async def main() -> None:
    lm = ScriptedLM(answer)
    rows = [{"town": t, "zone": str(i % 7)} for i, t in enumerate(TOWNS)]
    data = Dataset.from_rows(rows, inputs=["town"], name="towns")
    train, dev = data.split(30, 60, seed=1)

    program = Predict("town -> zone", adapter=ChatAdapter())
    metric = exact_match("zone")
    optimizer = BootstrapFewShot(metric=metric, max_labeled_demos=0, concurrency=4)
    compiled = await optimizer.compile(program, train, lm=lm)

    evaluate = Evaluate(dev, metric=metric, concurrency=16)
    before = await evaluate(program, lm=lm)
    after = await evaluate(compiled.program, lm=lm)
    print("before:", before)
    print("after: ", after)
    print(compare_evaluations(before, after).test)


if __name__ == "__main__":
    trio.run(main)
