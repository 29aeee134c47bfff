from typing import Any, Literal

import pydantic
import pytest

from dspex import ChainOfThought, Predict, Program, Signature, Step
from dspex.modules import InputField, OutputField, ReAct
from dspex.providers import Capabilities, Choice, Message, Request, ToolCall, ToolSpec
from dspex.testing import Fault, ScriptedLM, explore, fitting_answer
from dspex.worker.app import Runtime


class Line(pydantic.BaseModel):
    amount: float = pydantic.Field(gt=3, lt=4)
    count: int = pydantic.Field(le=-2, multiple_of=5)
    note: str | None


class Tree(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=4, max_length=5)
    above: "Tree | None"
    below: list["Tree"]


class Everything(Signature):
    """Answer."""

    question: str = InputField()
    kind: Literal["billing", "technical"] = OutputField()
    number: int = OutputField()
    share: float = OutputField()
    is_sure: bool = OutputField()
    words: list[str] = OutputField()
    counts: dict[str, int] = OutputField()
    line: Line = OutputField()
    pair: tuple[int, str] = OutputField()
    tree: Tree = OutputField()
    text: str = OutputField()


def look_up(word: str) -> str:
    """Look a word up."""
    raise AssertionError(word)


@pytest.mark.parametrize("adapter", ["json", "chat", "xml", "tools"])
@pytest.mark.parametrize(
    "capabilities", [Capabilities(), Capabilities(json_schema=False, tools=False)]
)
async def test_every_type_gets_a_value_in_every_form(
    adapter: str, capabilities: Capabilities
) -> None:
    lm = ScriptedLM(capabilities=capabilities)
    found = await Predict(Everything, lm=lm, adapter=adapter)(question="?")
    assert len(lm.requests) == 1  # no repair
    assert dict(found) == {
        "kind": "billing",
        "number": 0,
        "share": 0.0,
        "is_sure": True,
        "words": ["ok"],
        "counts": {},
        "line": Line(amount=3.5, count=-5, note="ok"),
        "pair": (0, "ok"),
        "tree": Tree(name="ok--", above=None, below=[]),
        "text": "ok",
    }


@pytest.mark.parametrize("protocol", ["native_tools", "fields", "text"])
async def test_an_agent_finishes_at_once(protocol: Any) -> None:
    agent = ReAct("q -> answer: float", [look_up], lm=ScriptedLM(), protocol=protocol)
    found = await agent(q="?")
    assert (found.reason, found.answer) == ("finished", 0.0)


@pytest.mark.parametrize("choice", ["note", "required"])
def test_a_tool_that_must_be_called_is_called(choice: str) -> None:
    schema = {"type": "object", "properties": {"line": {"type": "string"}}}
    note = ToolSpec("note", "", schema)
    asked = Request((Message.user("x"),), tools=(note,), tool_choice=choice)
    called = ToolCall("call_1", "note", '{"line": "ok"}')
    assert fitting_answer(asked) == Choice("", (called,), "tool_calls")


@pytest.mark.parametrize(
    "request_",
    [
        Request.of("Say something."),
        Request((Message.user("x"),), tools=(ToolSpec("note", "", {}),)),
    ],
)
def test_anything_else_is_answered_in_plain_text(request_: Request) -> None:
    assert fitting_answer(request_) == Choice("ok")


PROMPT_OF_DSPY = """\
[[ ## question ## ]]
{question}

[[ ## kind ## ]]
{kind}        # note: the value you produce must exactly match (no extra characters) \
one of: a; b

[[ ## number ## ]]
{number}        # note: the value you produce must be a single int value

[[ ## line ## ]]
{line}        # note: the value you produce must adhere to the JSON schema: \
{"type": "object", "properties": {"a": {"type": "boolean"}}}

[[ ## completed ## ]]
"""


def test_markers_in_the_words_of_dspy_are_filled() -> None:
    answer = fitting_answer(Request((Message.system(PROMPT_OF_DSPY),)))
    assert answer.text.split("\n\n")[1:] == [
        "[[ ## kind ## ]]\na",
        "[[ ## number ## ]]\n0",
        '[[ ## line ## ]]\n{"a": true}',
        "[[ ## completed ## ]]",
    ]


TYPED = Program(
    name="typed",
    steps={
        "sort": Step(
            module="Predict",
            signature="question -> kind: Literal['billing', 'technical'], text",
        ),
        "why": Step(module="ChainOfThought", signature="text -> sum: int"),
    },
)


async def test_a_typed_program_runs_on_the_fixture_as_it_is(runtime: Runtime) -> None:
    run = await runtime.run(TYPED, question="?")
    assert (run.outputs["kind"], run.outputs["sum"]) == ("billing", 0)


def test_a_typed_program_is_explored_without_a_model() -> None:
    crash = Fault("crash", "typed/*", nth=1)
    explore(TYPED, inputs={"question": "?"}, faults=[crash], seeds=range(2)).check()


async def test_several_choices_are_alike() -> None:
    lm = ScriptedLM()
    found = await ChainOfThought("q -> a: int", lm=lm, samples=3)(q="?")
    assert found.a == 0
