"""dspy's own optimizers in a process, and what they bring home."""

from typing import Any

import pytest
import trio
import trio.lowlevel

from dspex.runtime import ActorRef
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
    Optimization,
)
from dspex.runtime.bridge.testing import fields, response

CAPITALS = {"Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Peru": "Lima"}


EXAMPLES = [{"question": name, "answer": city} for name, city in CAPITALS.items()]


async def knowing(request: dict[str, Any]) -> dict[str, Any]:
    """A model that is right only when the prompt is good: it says to be precise."""
    await trio.lowlevel.checkpoint()
    system, last = (request["messages"][i]["content"] for i in (0, -1))
    if "new_instruction" in system:  # GEPA's reflection
        return response('{"new_instruction": "Be precise."}')
    if "proposed_instruction" in last or "proposed_instruction" in system:
        text = fields(
            proposed_instruction="Be precise.", proposed_prefix_for_output_field="A:"
        )
        return response(text)
    for name, city in CAPITALS.items():
        if f"[[ ## question ## ]]\n{name}" in last:
            return response(fields(answer=city if "precise" in system else "?"))
    return response(
        fields(
            observations="short",
            summary="capitals",
            program_description="x",
            module_description="y",
            program_code="z",
        )
    )


@pytest.mark.parametrize(
    ("optimizer", "metric", "settings", "compile_settings"),
    [
        (
            "MIPROv2",
            "exact",
            {
                "auto": None,
                "num_candidates": 3,
                "max_bootstrapped_demos": 0,
                "max_labeled_demos": 0,
                "seed": 1,
            },
            {"num_trials": 3, "minibatch": False},
        ),
        ("COPRO", "exact", {"breadth": 2, "depth": 1}, {}),
        ("GEPA", "feedback", {"max_metric_calls": 30, "num_threads": 1}, {}),
    ],
)
async def test_optimizers_bring_better_instructions_home(
    optimizer: str,
    metric: str,
    settings: dict[str, Any],
    compile_settings: dict[str, Any],
    pool: ActorRef[DspyPool],
) -> None:
    events: list[dict[str, Any]] = []

    async def note(event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        events.append(event)

    optimization = Optimization(
        optimizer=optimizer,
        program=DspyCall(
            module="dspy.Predict", signature="question -> answer", inputs={}
        ),
        metric=f"hosted_programs:{metric}",
        input_names=["question"],
        trainset=EXAMPLES,
        valset=EXAMPLES,
        settings=settings,
        compile_settings=compile_settings,
        timeout=60,
    )
    done = await pool.call(DspyPool.optimize, optimization, knowing, note, timeout=90)
    assert (done.score_before, done.score_after) == (0.0, 100.0)
    (predictor,) = done.predictors.values()
    assert "Be precise." in predictor["instructions"]
    assert done.model_calls > 8
    assert {"event": "evaluated", "score": 0.0} in events
    assert {"event": "evaluated", "score": 100.0} in events
    # What came home works: the state gives the same answers in another process.
    call = DspyCall(
        module="dspy.Predict",
        signature="question -> answer",
        state=done.state,
        inputs={"question": "Italy"},
    )
    result = await pool.call(DspyPool.run, call, knowing, timeout=30)
    assert result.outputs == {"answer": "Rome"}


async def test_bootstrapped_demos_come_home(pool: ActorRef[DspyPool]) -> None:
    optimization = Optimization(
        optimizer="BootstrapFewShotWithRandomSearch",
        program=DspyCall(
            module="dspy.Predict",
            signature="question -> answer",
            instructions="Be precise.",
            inputs={},
        ),
        metric="hosted_programs:exact",
        input_names=["question"],
        trainset=EXAMPLES,
        settings={
            "max_bootstrapped_demos": 2,
            "max_labeled_demos": 2,
            "num_candidate_programs": 2,
            "num_threads": 2,
        },
        timeout=60,
    )
    done = await pool.call(DspyPool.optimize, optimization, knowing, timeout=90)
    assert done.score_after == 100.0
    (predictor,) = done.predictors.values()
    assert all(demo in EXAMPLES for demo in predictor["demos"])
