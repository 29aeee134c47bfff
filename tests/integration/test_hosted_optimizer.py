"""dspy's own optimizers by the same interface, and steps of dspy as students."""

import json
from pathlib import Path
from typing import Any

import pytest

from dspex.modules import ChatAdapter, Predict
from dspex.modules.hosted import HostedBackend
from dspex.modules.native import NativeBackend
from dspex.modules.optimizers import (
    BootstrapFewShot,
    CompileError,
    Dataset,
    Evaluate,
    HostedOptimizer,
    ProgramModule,
    exact_match,
)
from dspex.providers import Budget, Budgeted, Request
from dspex.runtime import open_node
from dspex.runtime.bridge import DspyPool
from dspex.runtime.engine import Program
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime
from examples.mipro import EXAMPLES, SIGNATURE, model

EXAMPLES_FOLDER = Path(__file__).parents[2] / "examples"

MIXED = """
name: mixed
steps:
  recall:
    module: Predict
    signature: "town -> fact"
    config: {adapter: chat}
  answer:
    backend: python
    module: dspy.ChainOfThought
    signature: "town, fact -> zone"
    config: {adapter: chat}
outputs: {zone: answer.zone}
"""


async def test_dspys_optimizer_compiles_and_what_it_found_runs_here() -> None:
    lm = ScriptedLM(model)
    data = Dataset.from_rows(EXAMPLES, inputs=["country"])
    student = Predict(SIGNATURE, adapter=ChatAdapter())
    async with open_node() as node:
        pool = await node.start(DspyPool(search_path=[EXAMPLES_FOLDER]))
        optimizer = HostedOptimizer(
            "MIPROv2",
            metric="mipro_metric:one_word",
            pool=pool,
            settings={
                "auto": None,
                "num_candidates": 3,
                "max_bootstrapped_demos": 1,
                "max_labeled_demos": 1,
                "seed": 1,
            },
            compile_settings={"num_trials": 3, "minibatch": False},
        )
        made = await optimizer.compile(student, data, valset=data, lm=lm)
        short = Budgeted(ScriptedLM(model), Budget(requests=6))
        cut = await optimizer.compile(student, data, valset=data, lm=short)
    assert cut.report.stopped is not None
    assert (cut.report.calls, cut.program.demos) == (6, ())
    assert cut.program.signature == student.signature
    assert made.report.calls == len(lm.requests) > 0
    assert "one word" in made.program.signature.instructions
    evaluate = Evaluate(data, metric=exact_match("capital"))
    assert (await evaluate(student, lm=lm)).score == 0
    assert (await evaluate(made.program, lm=lm)).score == 100
    assert all(source.example >= 0 for source in made.report.demos["self"])


async def test_a_mixed_program_is_compiled_its_step_of_dspy_gets_demos() -> None:
    def knows_even_towns(request: Request) -> str:
        text = request.messages[-1].text
        number = int(text.split("Town ")[1].split()[0])
        if "[[ ## zone ## ]]" not in request.messages[0].text:
            return f"[[ ## fact ## ]]\nf{number}\n\n[[ ## completed ## ]]"
        zone = number if number % 2 == 0 else "?"
        return (
            f"[[ ## reasoning ## ]]\nI know {number}.\n\n[[ ## zone ## ]]\n{zone}\n\n"
            "[[ ## completed ## ]]"
        )

    lm = ScriptedLM(knows_even_towns)
    rows = [{"town": f"Town {i}", "zone": str(i)} for i in range(6)]
    train = Dataset.from_rows(rows, inputs=["town"])
    async with open_runtime(lm) as runtime:
        native, hosted = runtime.backend("native"), runtime.backend("python")
        assert isinstance(native, NativeBackend)
        assert isinstance(hosted, HostedBackend)
        student = ProgramModule(Program.from_text(MIXED), native=native, hosted=hosted)
        optimizer = BootstrapFewShot(
            metric=exact_match("zone"),
            max_bootstrapped_demos=2,
            max_labeled_demos=0,
            concurrency=2,
        )
        made = await optimizer.compile(student, train, lm=lm)
        better = made.program.to_program()
        run = await runtime.run(better, town="Town 8")
    assert [dict(demo) for demo in better.steps["answer"].demos] == [
        {
            "town": f"Town {i}",
            "fact": f"f{i}",
            "reasoning": f"I know {i}.",
            "zone": f"{i}",
        }
        for i in (0, 2)
    ]
    assert run.outputs == {"zone": "8"}
    # dspy has shown both demos to the model.
    users = [m for m in lm.requests[-1].messages if m.role == "user"]
    assert len(users) == 3
    assert made.report.calls >= 6


def told_to_be_brief(request: Request) -> str:
    """Gives the zone as a digit where its instructions say so."""
    fields: Any = (
        request.output_schema.schema["properties"] if request.output_schema else {}
    )
    if "zone" not in fields:
        said = dict.fromkeys(fields, "ONE DIGIT")
        return json.dumps(said) if said else "```\nONE DIGIT\n```"
    number = int(request.messages[-1].text.split("Town ")[1].split()[0])
    is_told = "ONE DIGIT" in request.messages[0].text
    answer = {"zone": str(number % 7) if is_told else "a zone"}
    return json.dumps({**dict.fromkeys(fields, "I know."), **answer})


@pytest.mark.parametrize(
    ("optimizer", "settings", "step"),
    [
        ("dspy.COPRO", {"breadth": 2, "depth": 1}, "{module: Predict, signature: S}"),
        (
            "dspy.GEPA",
            {"max_metric_calls": 30},
            "{backend: python, module: dspy.ChainOfThought, signature: S}",
        ),
    ],
)
async def test_what_dspy_finds_for_a_program_of_one_step_comes_home(
    optimizer: str, settings: dict[str, object], step: str
) -> None:
    step = step.replace("S}", '"town -> zone"}')
    text = f"name: one\nsteps:\n  answer: {step}\noutputs: {{zone: answer.zone}}\n"
    rows = [{"town": f"Town {i}", "zone": str(i % 7)} for i in range(6)]
    train = Dataset.from_rows(rows, inputs=["town"])
    lm = ScriptedLM(told_to_be_brief)
    async with open_runtime(lm) as runtime:
        native, hosted = runtime.backend("native"), runtime.backend("python")
        assert isinstance(native, NativeBackend)
        assert isinstance(hosted, HostedBackend)
        student = ProgramModule(Program.from_text(text), native=native, hosted=hosted)
        by_dspy = HostedOptimizer(
            optimizer,
            metric="exact_match:zone",
            pool=await hosted.pool(),
            settings=settings,
        )
        made = await by_dspy.compile(student, train, lm=lm)
        better = made.program.to_program()
        run = await runtime.run(better, town="Town 8")
        two = ProgramModule(Program.from_text(MIXED), native=native, hosted=hosted)
        with pytest.raises(CompileError, match=r"2 steps \(recall, answer\)"):
            await by_dspy.compile(two, train, lm=lm)
    assert better.steps["answer"].instructions == "ONE DIGIT"
    assert run.outputs == {"zone": "1"}
