"""What can be hosted: modules of dspy and of users, sandboxes, models of their own."""

from contextvars import ContextVar
from typing import Any

import trio
import trio.lowlevel

from dspex.runtime import ActorRef
from dspex.runtime.bridge import (
    DspyCall,
    DspyPool,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields, no_model, response
from dspex.testing import Answer, open_fake_provider


async def test_l9_a_model_call_is_made_in_its_callers_context(
    pool: ActorRef[DspyPool],
) -> None:
    correlation: ContextVar[str] = ContextVar("correlation", default="lost")
    seen: dict[str, str] = {}

    async def ask(name: str) -> None:
        async def model(request: dict[str, Any]) -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            seen[name] = correlation.get()
            return response(fields(answer="yes"))

        correlation.set(name)
        call = DspyCall(
            module="dspy.Predict",
            signature="question -> answer",
            inputs={"question": "?"},
        )
        await pool.call(DspyPool.run, call, model, timeout=30)

    async with trio.open_nursery() as nursery:
        for name in ("one", "two", "three"):
            nursery.start_soon(ask, name)
    assert seen == {"one": "one", "two": "two", "three": "three"}


async def test_a_users_program_gives_its_trace_and_takes_its_state(
    pool: ActorRef[DspyPool],
) -> None:
    model = ScriptedModel(
        fields(draft="rough"), fields(reasoning="hm", answer="smooth")
    )
    call = DspyCall(
        module="hosted_programs:Pipeline",
        inputs={"question": "?"},
        state={
            "draft": {
                "traces": [],
                "train": [],
                "demos": [{"question": "Old?", "draft": "Draft of old"}],
                "signature": {
                    "instructions": "Write a draft at once.",
                    "fields": [
                        {"prefix": "Question:", "description": "${question}"},
                        {"prefix": "Draft:", "description": "${draft}"},
                    ],
                },
                "lm": None,
            },
            "polish.predict": {
                "traces": [],
                "train": [],
                "demos": [],
                "signature": {
                    "instructions": "Polish it.",
                    "fields": [
                        {"prefix": "Draft:", "description": "${draft}"},
                        {"prefix": "Reasoning:", "description": "${reasoning}"},
                        {"prefix": "Answer:", "description": "${answer}"},
                    ],
                },
                "lm": None,
            },
        },
        trace=True,
    )
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {"reasoning": "hm", "answer": "smooth"}
    assert result.model_calls == 2
    assert result.usage["input_tokens"] == 20
    assert [step["predictor"] for step in result.trace] == ["draft", "polish.predict"]
    assert result.trace[0]["outputs"] == {"draft": "rough"}
    first, second = (request["messages"] for request in model.requests)
    assert "Write a draft at once." in first[0]["content"]
    assert "Draft of old" in first[2]["content"]
    assert "Polish it." in second[0]["content"]


async def test_l2_parameters_of_one_call_do_not_leak_into_the_next(
    pool: ActorRef[DspyPool],
) -> None:
    model = ScriptedModel(fields(answer="yes"))
    for demos in ([], [{"question": "Old?", "answer": "Ancient"}], []):
        call = DspyCall(
            module="dspy.Predict",
            signature="question -> answer",
            demos=demos,
            inputs={"question": "?"},
        )
        await pool.call(DspyPool.run, call, model, timeout=30)
    lengths = [len(request["messages"]) for request in model.requests]
    assert lengths == [2, 4, 2]


async def test_async_modules_are_hosted(pool: ActorRef[DspyPool]) -> None:
    call = DspyCall(module="hosted_programs:Async", inputs={"question": "?"})
    model = ScriptedModel(fields(answer="yes"))
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {"answer": "yes"}


async def test_multi_chain_comparison_is_hosted(pool: ActorRef[DspyPool]) -> None:
    call = DspyCall(
        module="dspy.MultiChainComparison",
        signature="question -> answer",
        config={"M": 2},
        inputs={
            "question": "Capital of France?",
            "completions": [
                {"reasoning": "I think so", "answer": "Lyon"},
                {"reasoning": "I know it", "answer": "Paris"},
            ],
        },
    )
    model = ScriptedModel(fields(rationale="the second", answer="Paris"))
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {"rationale": "the second", "answer": "Paris"}


async def test_program_of_thought_runs_the_models_code_in_its_sandbox(
    pool: ActorRef[DspyPool],
) -> None:
    call = DspyCall(
        module="dspy.ProgramOfThought",
        signature="question -> answer: int",
        inputs={"question": "The sum of the squares below ten?"},
    )
    code = 'total = sum(n * n for n in range(10))\nSUBMIT({"answer": total})'
    model = ScriptedModel(
        fields(reasoning="sum them", generated_code=f"```python\n{code}\n```"),
        fields(reasoning="the code said so", answer=285),
    )
    result = await pool.call(DspyPool.run, call, model, timeout=120)
    assert result.outputs["answer"] == 285
    # What the code gave was put to the model.
    assert "285" in str(model.requests[1]["messages"][-1])


async def test_rlm_explores_in_its_sandbox(pool: ActorRef[DspyPool]) -> None:
    call = DspyCall(
        module="dspy.RLM",
        signature="context, query -> answer",
        inputs={"context": "a b a c a", "query": "How many a?"},
    )
    code = 'SUBMIT(answer=str(context.split().count("a")))'
    model = ScriptedModel(fields(reasoning="count", code=f"```python\n{code}\n```"))
    result = await pool.call(DspyPool.run, call, model, timeout=120)
    assert result.outputs["answer"] == "3"


async def test_what_is_kept_of_a_signature_is_what_dspy_says_of_it(
    pool: ActorRef[DspyPool],
) -> None:
    call = DspyCall(module="hosted_programs:differences", inputs={})
    result = await pool.call(DspyPool.run, call, no_model, timeout=30)
    assert result.outputs == {"differences": []}


async def test_the_child_calls_its_own_model_when_asked(
    pool: ActorRef[DspyPool],
) -> None:
    text = fields(answer="yes")
    async with open_fake_provider([Answer(text)]) as server:
        call = DspyCall(
            module="dspy.Predict",
            signature="question -> answer",
            inputs={"question": "?"},
            own_model="openai/gpt-4o-mini",
            lm={"api_base": f"{server.url}/v1", "api_key": "sk-test"},
        )
        result = await pool.call(DspyPool.run, call, no_model, timeout=30)
    assert result.outputs == {"answer": "yes"}
    assert result.usage["input_tokens"] == 10
    assert result.usage["output_tokens"] == 5
    assert result.model_calls == 1
