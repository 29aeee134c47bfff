import json
from typing import Any, Literal

import pydantic
import pytest

from dspex.modules import (
    Adapter,
    AdapterParseError,
    ChatAdapter,
    History,
    Image,
    InputField,
    JSONAdapter,
    OutputField,
    Predict,
    Signature,
    Tool,
    ToolCalls,
    ToolsAdapter,
    XMLAdapter,
)
from dspex.modules.fields import FieldType
from dspex.providers import (
    Choice,
    ImagePart,
    Message,
    Response,
    TextPart,
    ToolCall,
    Usage,
)
from dspex.providers.lm import Capabilities
from dspex.testing import ScriptedLM

CAN = Capabilities(json_schema=True, tools=True, images=True)
CANNOT = Capabilities(json_schema=False, tools=False)
QA = Signature("question -> answer")


class Person(pydantic.BaseModel):
    name: str
    age: int


class Aliased(pydantic.BaseModel):
    first_name: str = pydantic.Field(alias="firstName")


def typed(type_: FieldType) -> Signature:
    return QA.delete("answer").append("answer", OutputField(), type_)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("[[ ## answer ## ]]\nParis", None),
        ("  [[ ## answer ## ]]\n  Paris", "indented-marker"),
        ("**[[ ## answer ## ]]**\nParis", "loose-marker"),
        ("[[ ## ANSWER ## ]] Paris", "loose-marker"),
        ("Sure: [[ ## answer ## ]] Paris [[ ## completed ## ]]", "loose-marker"),
        ("[[## answer ##]]\nParis", "loose-marker"),
        ('{"answer": "Paris"}', "json-in-chat"),
        ('```json\n{"answer": "Paris"}\n```', "json-in-chat"),
    ],
)
def test_chat_reads_what_models_write(text: str, note: str | None) -> None:
    reading = ChatAdapter().parse(QA, Choice(text))
    assert reading.outputs == {"answer": "Paris"}
    assert reading.notes == (() if note is None else (note,))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ('{"answer": "Paris"}', None),
        ('Sure!\n```json\n{"answer": "Paris"}\n```', None),
        ("{'answer': 'Paris',}", None),
        ('{"Answer": "Paris"}', "key-case"),
        ('{"output": {"answer": "Paris"}}', "wrapped-json"),
        ('<think>{"x": 1}</think>{"answer": "Paris"}', "thinking"),
        ("[[ ## answer ## ]]\nParis", "markers-in-json"),
    ],
)
def test_json_reads_what_models_write(text: str, note: str | None) -> None:
    reading = JSONAdapter().parse(QA, Choice(text))
    assert reading.outputs == {"answer": "Paris"}
    assert reading.notes == (() if note is None else (note,))


@pytest.mark.parametrize("adapter", [ChatAdapter(), JSONAdapter(), XMLAdapter()])
@pytest.mark.parametrize("text", ["", "  ", "Paris", "[]", "[[ ## ]]", "{", "<answer>"])
def test_b2_a_missing_field_is_an_error_never_empty(
    adapter: Adapter, text: str
) -> None:
    with pytest.raises(AdapterParseError) as caught:
        adapter.parse(QA, Choice(text))
    assert caught.value.text == text


VALUES: list[tuple[FieldType, str, object, str | None]] = [
    (int, "1,234", 1234, "number-commas"),
    (float, "-1,234.5", -1234.5, "number-commas"),
    (int, "`7`", 7, "decorated-value"),
    (bool, "True.", True, "decorated-value"),
    (Literal["yes", "no"], "Yes", "yes", "choice-case"),
    (Literal["yes", "no"], "`yes`", "yes", "decorated-value"),
    (Literal["yes", "no"], "'yes'", "yes", None),
    (list[int], "1, 2, 3", [1, 2, 3], None),
    (Person, "{name: Ann, age: 30}", Person(name="Ann", age=30), None),
]


@pytest.mark.parametrize(("type_", "text", "value", "note"), VALUES)
def test_values_are_read_by_their_type(
    type_: FieldType, text: str, value: object, note: str | None
) -> None:
    signature = typed(type_)
    chat = ChatAdapter().parse(signature, Choice(f"[[ ## answer ## ]]\n{text}"))
    assert chat.outputs == {"answer": value}
    assert chat.notes == (() if note is None else (note,))
    inside = JSONAdapter().parse(signature, Choice(json.dumps({"answer": text})))
    assert inside.outputs == {"answer": value}


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (int, "seven"),
        (int, "1,23"),
        (int, "7 apples"),
        (bool, "Yes, it is"),
        (Literal["yes", "no"], "yes no"),
        (Literal["A", "a"], "Ä"),
        (list[str], "- a\n- b"),
        (Person, "{'name': 'Ann'}"),
    ],
)
def test_what_is_not_a_value_says_field_type_and_text(
    type_: FieldType, text: str
) -> None:
    with pytest.raises(AdapterParseError) as caught:
        ChatAdapter().parse(typed(type_), Choice(f"[[ ## answer ## ]]\n{text}"))
    assert caught.value.field == "answer"
    assert caught.value.expected == typed(type_).output_fields["answer"].type_name
    assert text in caught.value.text


def test_tags_may_be_the_names_of_aliased_fields() -> None:
    text = "<answer><first_name>Ann</first_name></answer>"
    reading = XMLAdapter().parse(typed(Aliased), Choice(text))
    assert reading.outputs == {"answer": Aliased(firstName="Ann")}


@pytest.mark.parametrize("adapter", [ChatAdapter(), JSONAdapter(), XMLAdapter()])
def test_an_empty_answer_leaves_nothing_out(adapter: Adapter) -> None:
    signature = Signature("q -> a: Optional[int]")
    with pytest.raises(AdapterParseError, match="the answer is empty"):
        adapter.parse(signature, Choice(""))


@pytest.mark.parametrize("adapter", [ChatAdapter(), JSONAdapter(), XMLAdapter()])
async def test_b2_multiline_and_unicode_values_survive(adapter: Adapter) -> None:
    value = "línea 1\n\n  línea 2 «北京» 🙂\ttab [x] {y} <z>"
    signature = Signature("question -> answer, other")
    writers = {
        "ChatAdapter": f"[[ ## answer ## ]]\n{value}\n\n[[ ## other ## ]]\no",
        "JSONAdapter": json.dumps({"answer": value, "other": "o"}),
        "XMLAdapter": f"<answer>{value}</answer><other>o</other>",
    }
    lm = ScriptedLM([writers[adapter.name]], capabilities=CANNOT)
    found = await Predict(signature, lm=lm, adapter=adapter)(question=value)
    assert found.answer == value
    assert value in lm.requests[0].messages[-1].text


async def test_history_becomes_turns() -> None:
    signature = QA.append("history", InputField(), History)
    lm = ScriptedLM(["[[ ## answer ## ]]\nx"], capabilities=CANNOT)
    history = History(messages=[{"question": "first?", "answer": "one"}])
    await Predict(signature, lm=lm)(question="second?", history=history)
    messages = lm.requests[0].messages
    assert [m.role for m in messages] == ["system", "user", "assistant", "user"]
    assert "first?" in messages[1].text
    assert "one" in messages[2].text
    assert "history" not in messages[3].text


async def test_images_become_parts() -> None:
    signature = Signature("picture: dspy.Image, question -> answer")
    lm = ScriptedLM(['{"answer": "a cat"}'], capabilities=CAN)
    await Predict(signature, lm=lm)(picture="https://x.org/a.png", question="what?")
    content = lm.requests[0].messages[-1].content
    assert isinstance(content, tuple)
    assert content[1] == ImagePart(url="https://x.org/a.png")
    assert isinstance(content[2], TextPart)
    assert Image.from_bytes(b"hi", media_type="image/png").to_part() == ImagePart(
        data="aGk=", media_type="image/png"
    )


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


TOOLS = Signature("question, tools: list[dspy.Tool] -> calls: dspy.ToolCalls")


def called(*calls: tuple[str, str]) -> Response:
    made = tuple(ToolCall(f"c{i}", *call) for i, call in enumerate(calls))
    return Response((Choice("", made, "tool_calls"),), Usage(), "m")


async def test_tool_calls_are_an_output() -> None:
    lm = ScriptedLM([called(("add", '{"a": 1, "b": 2}'))], capabilities=CAN)
    found = await Predict(TOOLS, lm=lm)(question="1+2", tools=[Tool(add)])
    assert found.calls.tool_calls[0].name == "add"
    assert found.calls.tool_calls[0].args == {"a": 1, "b": 2}
    (spec,) = lm.requests[0].tools
    assert spec.name == "add"
    assert "tools" not in lm.requests[0].messages[-1].text


@pytest.mark.parametrize(
    "said",
    [
        {"tool_calls": [{"name": "now"}]},
        {"tool_calls": [{"name": "now", "args": None}]},
        [{"name": "now", "arguments": "null"}],
        {"function": {"name": "now"}},
    ],
)
def test_a_call_without_arguments_has_none(said: object) -> None:
    assert ToolCalls.model_validate(said).tool_calls[0].args == {}
    native = [ToolCall("1", "now", "null"), ToolCall("2", "now", "")]
    assert [it.args for it in ToolCalls.from_provider(native).tool_calls] == [{}, {}]


@pytest.mark.parametrize("said", [{"name": "now"}, [{"name": "now"}], {"args": {}}])
def test_what_only_has_a_name_is_no_call(said: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        ToolCalls.model_validate(said)


async def test_model_without_tools_is_told_of_them_in_the_prompt() -> None:
    answer = '[[ ## calls ## ]]\n{"name": "add", "args": {"a": 1, "b": 2}}'
    lm = ScriptedLM([answer], capabilities=CANNOT)
    found = await Predict(TOOLS, lm=lm, adapter="tools")(
        question="1+2", tools=[Tool(add)]
    )
    assert found.calls == ToolCalls.model_validate(
        [{"name": "add", "args": {"a": 1, "b": 2}}]
    )
    assert "Add two integers." in lm.requests[0].messages[-1].text


async def test_b2_outputs_as_arguments_of_a_tool() -> None:
    signature = Signature("question -> answer: int, why")
    lm = ScriptedLM(
        [
            called(("answer", '{"answer": "many", "why": "w"}')),
            called(("answer", '{"answer": 3, "why": "w"}')),
        ],
        capabilities=Capabilities(json_schema=False, tools=True),
    )
    found = await Predict(signature, lm=lm)(question="1+2")
    assert dict(found.outputs) == {"answer": 3, "why": "w"}
    first, second = lm.requests
    (spec,) = first.tools
    # The schema is that of the outputs, not of the inputs.
    parameters: Any = spec.parameters
    assert list(parameters["properties"]) == ["answer", "why"]
    assert first.tool_choice == "answer"
    # The repair turn answers the call.
    assert (
        second.messages[-2].tool_calls[0].arguments == '{"answer": "many", "why": "w"}'
    )
    assert second.messages[-1].role == "tool"
    assert "valid integer" in second.messages[-1].text


def test_tools_adapter_is_chosen_for_tool_calls_only_where_it_works() -> None:
    adapter = ToolsAdapter()
    assert adapter.for_model(CAN) is adapter
    assert not adapter.for_model(CANNOT).offer


@pytest.mark.parametrize("adapter", [ChatAdapter(), JSONAdapter(), XMLAdapter()])
def test_demos_go_in_as_the_model_should_answer(adapter: Adapter) -> None:
    signature = Signature("question -> answer: list[int], note: str | None")
    demos: list[dict[str, object]] = [
        {"question": "q1", "answer": [1, 2], "note": None},
        {"question": "q2", "answer": [3], "note": "n"},
        {"question": "only an input"},
        {"note": "only an output"},
    ]
    request = adapter.format(
        signature, demos=demos, inputs={"question": "now"}, capabilities=CANNOT
    )
    turns = request.messages[1:-1]
    assert [m.role for m in turns] == ["user", "assistant"] * 2
    assert all(isinstance(m, Message) for m in turns)
    complete = adapter.parse(signature, Choice(turns[3].text))
    assert complete.outputs == {"answer": [3], "note": "n"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (["one", "two"], "[1] one\n[2] two"),
        ([], "(none)"),
        ("plain", "plain"),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        (Person(name="Ann", age=3), '{"name": "Ann", "age": 3}'),
        (3, "3"),
        (True, "True"),
    ],
)
def test_untyped_inputs_are_shown_readably(value: object, shown: str) -> None:
    request = ChatAdapter().format(
        QA, demos=[], inputs={"question": value}, capabilities=CANNOT
    )
    assert f"[[ ## question ## ]]\n{shown}\n\n" in request.messages[-1].text
