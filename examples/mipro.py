"""Compile a program with dspy's MIPROv2, then run it natively.

No key and no network: the model is scripted. It knows capitals, but answers in one
word only when its instructions tell it to, which is what MIPROv2 has to find out.
"""

from pathlib import Path
from typing import Any

import trio

from dspex.modules import Predict, Signature
from dspex.providers import Request, Response
from dspex.runtime import open_node
from dspex.runtime.bridge import DspyCall, DspyPool, Optimization
from dspex.testing import ScriptedLM

CAPITALS = {"Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Peru": "Lima"}
EXAMPLES = [{"country": name, "capital": city} for name, city in CAPITALS.items()]
SIGNATURE = "country -> capital"


def model(request: Request) -> str:
    """Answer as a model would that needs to be told to be brief."""
    text = request.messages[-1].text
    system = request.messages[0].text
    if "proposed_instruction" in text + system:
        return (
            "[[ ## proposed_instruction ## ]]\nGive the name of the city in one word."
        )
    for country, capital in CAPITALS.items():
        if f"[[ ## country ## ]]\n{country}" in text:
            brief = "one word" in system
            answer = capital if brief else f"The capital is {capital}, of course."
            return f"[[ ## capital ## ]]\n{answer}"
    # MIPROv2 also wants to know what the data and the program are about.
    names = ("observations", "summary", "program_description", "module_description")
    return "\n\n".join(f"[[ ## {name} ## ]]\ncapitals of countries" for name in names)


async def main() -> None:
    lm = ScriptedLM(model)

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        response: Response = await lm.complete(Request.from_json(request))
        return response.to_json()

    async def watch(event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if event["event"] == "evaluated":
            print(f"  a candidate scores {event['score']:.0f} %")

    optimization = Optimization(
        optimizer="MIPROv2",
        program=DspyCall(module="dspy.Predict", signature=SIGNATURE, inputs={}),
        metric="mipro_metric:one_word",
        input_names=["country"],
        trainset=EXAMPLES,
        valset=EXAMPLES,
        settings={
            "auto": None,
            "num_candidates": 3,
            "max_bootstrapped_demos": 1,
            "max_labeled_demos": 1,
            "seed": 1,
        },
        compile_settings={"num_trials": 3, "minibatch": False},
    )
    async with open_node() as node:
        pool = await node.start(DspyPool(search_path=[Path(__file__).parent]))
        done = await pool.call(
            DspyPool.optimize, optimization, answer, watch, timeout=300
        )
    print(f"before: {done.score_before:.0f} %, after: {done.score_after:.0f} %")

    (learned,) = done.predictors.values()
    print(f"instructions: {learned['instructions']}")
    predict = Predict(
        Signature(SIGNATURE, learned["instructions"]),
        lm=lm,
        adapter="chat",
        demos=learned["demos"],
    )
    right = 0
    for example in EXAMPLES:
        prediction = await predict(country=example["country"])
        right += prediction.capital == example["capital"]
    print(f"natively: {right} of {len(EXAMPLES)} right")


if __name__ == "__main__":
    trio.run(main)
