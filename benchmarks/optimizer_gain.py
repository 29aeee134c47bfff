"""What compiling gains on a real model: the embedded SmolLM2 and unseen reviews.

`python -m benchmarks optimizer_gain [--seed N] [--quick]`

The task is the sentiment of a review (`examples/optimize/reviews.py`). The signature
does not say which words to answer with, so that without demos the model answers in its
own: that is what demos have to teach. The seed draws a dev set of 200 examples first,
before any score is seen; no dev example is ever trained or chosen on, and dev scores
choose nothing. A search on a validation set must gain with p < 0.05 by the paired
test on every seed; what plain bootstrapping gains is reported beside it.
"""

import argparse
import json
from functools import partial

import structlog
import trio

from benchmarks._figure import figure
from dspex.modules import JSONAdapter, Predict
from dspex.modules.optimizers import (
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    Evaluate,
    Evaluation,
    compare_evaluations,
    exact_match,
    refuse_leakage,
)
from dspex.providers import LM
from dspex.providers.embedded import Embedded
from dspex.providers.embedded_server import EmbeddedServer
from dspex.runtime import open_node
from dspex.supervisors import ChildSpec, Supervisor
from examples.optimize.reviews import load_reviews

SEEDS = (1, 2, 3)
TRAIN, VALIDATION, DEV = 60, 50, 200
DEMOS, CANDIDATES, CONCURRENCY = 4, 4, 2


def make_program() -> Predict:
    return Predict(
        "review -> sentiment",
        adapter=JSONAdapter(max_string_length=20),
        temperature=0,
        max_tokens=24,
    )


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def report(
    seed: int, optimizer: str, before: Evaluation, after: Evaluation, *, reach: str
) -> bool:
    test = compare_evaluations(before, after).test
    say(seed=seed, optimizer=optimizer, test=str(test), errors=after.errors)
    return figure(
        f"seed {seed}: p of what {optimizer} gains (1: nothing)",
        test.p if test.difference > 0 else 1.0,
        "p",
        reach=reach,
        against={"before": before.score, "after": after.score},
    )


async def measure(lm: LM, seed: int, dev_size: int) -> bool:
    metric = exact_match("sentiment")
    dev, train, val = load_reviews().split(
        dev_size, TRAIN, VALIDATION, seed=seed, balance="sentiment"
    )
    refuse_leakage("dev set", [*train, *val], dev)
    evaluate = Evaluate(dev, metric=metric, concurrency=CONCURRENCY, max_errors=None)
    student = make_program()
    started = trio.current_time()
    before = await evaluate(student, lm=lm)
    plain = await BootstrapFewShot(
        metric=metric,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=DEMOS,
        concurrency=CONCURRENCY,
    ).compile(student, train, lm=lm)
    after_plain = await evaluate(plain.program, lm=lm)
    search = BootstrapFewShotWithRandomSearch(
        metric=metric,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=DEMOS,
        num_candidates=CANDIDATES,
        concurrency=CONCURRENCY,
    )
    best = await search.compile(student, train, valset=val, lm=lm)
    after = await evaluate(best.program, lm=lm)
    report(seed, "BootstrapFewShot", before, after_plain, reach="reported")
    holds = report(
        seed, "BootstrapFewShotWithRandomSearch", before, after, reach="<= 0.05"
    )
    evaluations = (before, after_plain, after)
    say(
        seed=seed,
        calls=sum(it.calls for it in evaluations)
        + plain.report.calls
        + best.report.calls,
        seconds=round(trio.current_time() - started),
        search_calls=best.report.calls,
        search_seconds=round(best.report.seconds),
        validation={c.seed: c.score and round(c.score, 1) for c in best.candidates},
    )
    return holds


async def run(seeds: list[int], dev_size: int) -> bool:
    async with open_node() as node:
        # One slot: the demos at the head of each request stay in its cache.
        server = ChildSpec(
            "embedded", partial(EmbeddedServer, slots=1), name="embedded"
        )
        await node.start(Supervisor([server]), name="root")
        lm = Embedded(node.registry)
        return all([await measure(lm, seed, dev_size) for seed in seeds])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks optimizer_gain")
    parser.add_argument("--seed", type=int, action="append", help="1, 2 and 3 if none")
    parser.add_argument("--quick", action="store_true", help="60 dev examples, seed 1")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    seeds: list[int] = options.seed or list(SEEDS[: 1 if options.quick else None])
    return 0 if trio.run(run, seeds, 60 if options.quick else DEV) else 1
