"""What compiling gains on a real model: the embedded SmolLM2 and unseen reviews.

`python -m benchmarks optimizer_gain [--seed N] [--dev 200] [--candidates 6]`

Data: the review fixtures of the npm package `sentiment` 5.0.2 (amazon, imdb, yelp; MIT
licence), fetched by npm into a temporary folder. The task is to tell whether a review
is of a product, a movie or a restaurant. The seed draws the examples, the dev set
first, before any score is seen; no dev example is ever trained or chosen on.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import trio

from dspex.modules import Predict
from dspex.modules.optimizers import (
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    Dataset,
    Evaluate,
    Evaluation,
    compare_evaluations,
    exact_match,
    refuse_leakage,
)
from dspex.providers import LM
from dspex.providers.embedded import Embedded, EmbeddedServer
from dspex.runtime import open_node
from dspex.supervisors import ChildSpec, Supervisor

PACKAGE = "sentiment@5.0.2"
KINDS = {"amazon": "product", "imdb": "movie", "yelp": "restaurant"}
PER_KIND = 300
SHORTEST, LONGEST = 30, 160


def load_reviews() -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )
        (archive,) = Path(folder).glob("*.tgz")
        rows: list[dict[str, str]] = []
        with tarfile.open(archive) as tar:
            for name, kind in KINDS.items():
                file = tar.extractfile(f"package/test/fixtures/{name}.json")
                assert file is not None
                texts = [entry["text"].strip() for entry in json.load(file)]
                fit = [t for t in texts if SHORTEST <= len(t) <= LONGEST]
                rows += [{"review": t, "about": kind} for t in fit[:PER_KIND]]
    return Dataset.from_rows(rows, inputs=["review"], name=PACKAGE)


def make_program() -> Predict:
    return Predict(
        "review -> about: Literal['product', 'movie', 'restaurant']",
        adapter="json",
        temperature=0,
        max_tokens=30,
    )


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def report(seed: int, what: str, before: Evaluation, after: Evaluation) -> bool:
    found = compare_evaluations(before, after)
    holds = found.test.difference > 0 and found.test.p < 0.05
    say(
        seed=seed,
        optimizer=what,
        before=round(before.score, 1),
        after=round(after.score, 1),
        test=str(found.test),
        errors=after.errors,
        holds=holds,
    )
    return holds


async def measure(lm: LM, seed: int, dev_size: int, candidates: int) -> bool:
    metric = exact_match("about")
    dev, train, val = load_reviews().split(dev_size, 60, 60, seed=seed, balance="about")
    refuse_leakage("dev set", [*train, *val], dev)
    evaluate = Evaluate(dev, metric=metric, concurrency=2, max_errors=None)
    student = make_program()
    before = await evaluate(student, lm=lm)
    plain = await BootstrapFewShot(
        metric=metric, max_bootstrapped_demos=6, max_labeled_demos=0, concurrency=2
    ).compile(student, train, lm=lm)
    after = await evaluate(plain.program, lm=lm)
    held = [report(seed, "BootstrapFewShot", before, after)]
    search = BootstrapFewShotWithRandomSearch(
        metric=metric,
        max_bootstrapped_demos=6,
        max_labeled_demos=6,
        num_candidates=candidates,
        concurrency=2,
    )
    best = await search.compile(student, train, valset=val, lm=lm)
    after = await evaluate(best.program, lm=lm)
    held.append(report(seed, "BootstrapFewShotWithRandomSearch", before, after))
    say(
        seed=seed,
        search_calls=best.report.calls,
        search_seconds=round(best.report.seconds),
        validation={c.seed: c.score and round(c.score, 1) for c in best.candidates},
    )
    return any(held)


async def run(seeds: list[int], dev_size: int, candidates: int) -> bool:
    async with open_node() as node:
        server = ChildSpec("embedded", EmbeddedServer, name="embedded")
        await node.start(Supervisor([server]), name="root")
        lm = Embedded(node.registry)
        return all([await measure(lm, s, dev_size, candidates) for s in seeds])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks optimizer_gain")
    parser.add_argument("--seed", type=int, action="append", help="1, 2 and 3 if none")
    parser.add_argument("--dev", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=6)
    options = parser.parse_args(argv)
    seeds = options.seed or [1, 2, 3]
    return 0 if trio.run(run, seeds, options.dev, options.candidates) else 1
