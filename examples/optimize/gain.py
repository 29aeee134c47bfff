"""Compile a program and measure what it gained: `python -m examples.optimize.gain`.

The model is a scripted one, so that it runs anywhere at once: it knows the answer for
every third town, and for all of them once it has seen demos of this kind. With
`--embedded` the same is done on the embedded model and a public data set, which npm
fetches; that takes some minutes (`make gain`).
"""

import argparse
from functools import partial

import trio

from dspex.modules import ChatAdapter, JSONAdapter, Predict
from dspex.modules.optimizers import (
    BootstrapFewShotWithRandomSearch,
    Candidate,
    Dataset,
    Evaluate,
    compare_evaluations,
    exact_match,
    refuse_leakage,
)
from dspex.providers import LM, Request
from dspex.providers.embedded import Embedded
from dspex.providers.embedded_server import EmbeddedServer
from dspex.runtime import open_node
from dspex.supervisors import ChildSpec, Supervisor
from dspex.testing import ScriptedLM
from examples.optimize.reviews import load_reviews

TOWNS = [f"Town {number}" for number in range(120)]


def answer(request: Request) -> str:
    users = [message.text for message in request.messages if message.role == "user"]
    number = int(users[-1].split("\n")[1].split()[1])
    knows = number % 3 == 0 or len(users) > 1
    return f"[[ ## zone ## ]]\n{number % 7 if knows else 'unknown'}"


async def on_scripted_model() -> None:
    rows = [{"town": t, "zone": str(i % 7)} for i, t in enumerate(TOWNS)]
    data = Dataset.from_rows(rows, inputs=["town"], name="towns")
    program = Predict("town -> zone", adapter=ChatAdapter())
    parts = data.split(60, 30, 30, seed=1)
    await gain(program, "zone", parts, lm=ScriptedLM(answer), concurrency=16)


async def on_embedded_model() -> None:
    async with open_node() as node:
        # One slot: the demos at the head of each request stay in its cache.
        start = partial(EmbeddedServer, slots=1)
        server = ChildSpec("embedded", start, name="embedded")
        await node.start(Supervisor([server]), name="root")
        program = Predict(
            "review -> sentiment",
            adapter=JSONAdapter(max_string_length=20),
            temperature=0,
            max_tokens=24,
        )
        parts = load_reviews().split(200, 60, 50, seed=1, balance="sentiment")
        lm = Embedded(node.registry)
        await gain(program, "sentiment", parts, lm=lm, concurrency=2)


async def gain(
    program: Predict,
    field: str,
    parts: tuple[Dataset, ...],
    *,
    lm: LM,
    concurrency: int,
) -> None:
    """Compile on the training set, choose on the validation set, score on the rest."""
    dev, train, val = parts
    refuse_leakage("dev set", [*train, *val], dev)
    metric = exact_match(field)
    evaluate = Evaluate(dev, metric=metric, concurrency=concurrency, max_errors=None)
    before = await evaluate(program, lm=lm)
    print("before:", before, flush=True)
    search = BootstrapFewShotWithRandomSearch(
        metric=metric,
        max_bootstrapped_demos=4,
        max_labeled_demos=4,
        num_candidates=4,
        concurrency=concurrency,
        on_candidate=tell,
    )
    compiled = await search.compile(program, train, valset=val, lm=lm)
    after = await evaluate(compiled.program, lm=lm)
    print("after: ", after)
    print(compare_evaluations(before, after).test)


def tell(candidate: Candidate[Predict]) -> None:
    """Print the score of a candidate as it comes."""
    print(f"  candidate {candidate.seed}: {candidate.score:.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedded", action="store_true")
    options = parser.parse_args()
    trio.run(on_embedded_model if options.embedded else on_scripted_model)
