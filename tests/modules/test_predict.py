import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, cast

import pydantic
import pytest
import trio
import trio.testing

from dspex.modules import (
    Adapter,
    AdapterParseError,
    ChatAdapter,
    ConfigError,
    InputField,
    JSONAdapter,
    LMNotConfiguredError,
    MissingInputError,
    Module,
    OutputField,
    Predict,
    Prediction,
    Signature,
    XMLAdapter,
)
from dspex.providers.lm import Capabilities
from dspex.providers.messages import (
    Choice,
    Message,
    Request,
    Response,
    Usage,
)
from dspex.testing import ScriptedLM

T = TypeVar("T")
JSON = Capabilities(json_schema=True, tools=False)
CHAT = Capabilities(json_schema=False, tools=False)


def chat(**outputs: object) -> str:
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in outputs.items()]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def chatty(*script: str | Response | Exception, delay: float = 0) -> ScriptedLM:
    return ScriptedLM(script, capabilities=CHAT, delay=delay)


class Address(pydantic.BaseModel):
    street: str
    zip: str | None = None


class Invoice(pydantic.BaseModel):
    total: float
    address: Address


class Sort(Signature):
    """Sort it."""

    ticket: str = InputField(desc="what the customer wrote")
    category: Literal["bug", "question"] = OutputField()
    urgency: int = OutputField(ge=0, le=10)


async def test_typed_outputs_with_usage_and_model() -> None:
    lm = chatty(chat(category="bug", urgency="7"))
    prediction = await Predict(Sort, lm=lm)(ticket="It burns")
    assert prediction.category == "bug"
    assert prediction.urgency == 7
    assert prediction.usage.output_tokens == len(
        chat(category="bug", urgency="7").split()
    )
    assert prediction.model == "model"
    assert len(prediction.trace_id or "") == 32


async def test_instructions_demos_and_inputs_are_in_the_request() -> None:
    lm = chatty(chat(category="bug", urgency="7"))
    demos: list[dict[str, object]] = [
        {"ticket": "d1", "category": "question", "urgency": 1},
        {"ticket": "d2", "category": "bug"},
    ]
    await Predict(Sort, lm=lm, demos=demos)(ticket="the input")
    messages = lm.requests[0].messages
    assert [m.role for m in messages] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert "Sort it." in messages[0].text
    assert "what the customer wrote" in messages[0].text
    assert "at least 0, at most 10" in messages[0].text
    # The incomplete demo comes first, as in dspy.
    assert "d2" in messages[1].text
    assert "d1" in messages[3].text
    assert "[[ ## category ## ]]\nquestion" in messages[4].text
    assert "[[ ## ticket ## ]]\nthe input" in messages[5].text


async def test_json_adapter_is_chosen_for_models_that_follow_schemas() -> None:
    lm = ScriptedLM(['{"category": "bug", "urgency": 3}'], capabilities=JSON)
    prediction = await Predict(Sort, lm=lm)(ticket="t")
    assert prediction.urgency == 3
    schema = lm.requests[0].output_schema
    assert schema is not None
    assert schema.strict
    assert schema.schema == {
        "type": "object",
        "properties": {
            "category": {"type": "string", "enum": ["bug", "question"]},
            "urgency": {"type": "integer", "minimum": 0, "maximum": 10},
        },
        "required": ["category", "urgency"],
        "additionalProperties": False,
    }


async def test_nested_model_schema_is_strict_and_strings_bounded() -> None:
    signature = Signature("text -> invoice: Invoice", custom_types={"Invoice": Invoice})
    answer = {"invoice": {"total": 1.5, "address": {"street": "A", "zip": None}}}
    lm = ScriptedLM([json.dumps(answer)], capabilities=JSON)
    adapter = JSONAdapter(max_string_length=40)
    prediction = await Predict(signature, lm=lm, adapter=adapter)(text="t")
    assert prediction.invoice == Invoice(total=1.5, address=Address(street="A"))
    schema = lm.requests[0].output_schema
    assert schema is not None
    found: Any = schema.schema
    address = found["$defs"]["Address"]
    assert address["required"] == ["street", "zip"]
    assert address["additionalProperties"] is False
    assert address["properties"]["street"] == {"type": "string", "maxLength": 40}
    assert address["properties"]["zip"]["anyOf"][0]["maxLength"] == 40


async def test_open_ended_mapping_makes_the_schema_not_strict() -> None:
    lm = ScriptedLM(['{"a": {"x": 1}}'], capabilities=JSON)
    prediction = await Predict("q -> a: dict[str, int]", lm=lm)(q="?")
    assert prediction.a == {"x": 1}
    schema = lm.requests[0].output_schema
    assert schema is not None
    assert not schema.strict


async def test_unreadable_answer_is_shown_to_the_model_once() -> None:
    lm = chatty("no idea", chat(a="4"))
    prediction = await Predict("q -> a: int", lm=lm)(q="2+2")
    assert prediction.a == 4
    again = lm.requests[1].messages
    assert again[-2] == Message.assistant("no idea")
    assert "there is no [[ ## a ## ]]" in again[-1].text
    assert prediction.usage.output_tokens == len(f"no idea {chat(a='4')}".split())
    assert [attempt.text for attempt in prediction.attempts] == ["no idea"]


async def test_after_the_repairs_the_error_tells_everything() -> None:
    lm = chatty(chat(a="many"), chat(a="lots"))
    with pytest.raises(AdapterParseError) as caught:
        await Predict("q -> a: int", lm=lm)(q="?")
    error = caught.value
    assert error.signature == "q -> a"
    assert error.field == "a"
    assert error.expected == "int"
    assert error.text == chat(a="lots")
    assert [attempt.text for attempt in error.attempts] == [
        chat(a="many"),
        chat(a="lots"),
    ]
    assert error.usage.output_tokens == 2 * len(chat(a="lots").split())
    assert len(lm.requests) == 2


@pytest.mark.parametrize("adapter", [ChatAdapter(), XMLAdapter()])
async def test_what_is_wrong_again_in_json_was_not_left_out(adapter: Adapter) -> None:
    wrong = {"ChatAdapter": chat(a="many"), "XMLAdapter": "<a>many</a>"}[adapter.name]
    predict = Predict("q -> a: Optional[int]", adapter=adapter)
    with pytest.raises(AdapterParseError, match="output 'a'"):
        await predict.run({"q": "?"}, lm=chatty(wrong, '{"a": "lots"}'))
    mended = await predict.run({"q": "?"}, lm=chatty(wrong, '{"a": 4}'))
    assert mended.a == 4
    left_out = await predict.run({"q": "?"}, lm=chatty(wrong, "{}"))
    assert left_out.a is None


async def test_without_repairs_one_call_is_made() -> None:
    lm = chatty("no idea")
    with pytest.raises(AdapterParseError):
        await Predict("q -> a", lm=lm, repairs=0)(q="?")
    assert len(lm.requests) == 1


async def test_broken_constraint_is_not_accepted() -> None:
    lm = chatty(chat(category="bug", urgency="99"))
    with pytest.raises(AdapterParseError, match="less than or equal to 10"):
        await Predict(Sort, lm=lm, repairs=0)(ticket="t")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice("[[ ## a", finish_reason="length"), "raise max_tokens"),
        (Choice("", refusal="I will not"), "the model refused: I will not"),
        (Choice("  "), "the answer is empty"),
    ],
)
async def test_error_says_why_there_is_no_answer(choice: Choice, expected: str) -> None:
    with pytest.raises(AdapterParseError, match=expected):
        await Predict(
            "q -> a", lm=chatty(Response((choice,), Usage(), "m")), repairs=0
        )(q="?")


async def test_without_a_model_the_error_says_what_to_do() -> None:
    with pytest.raises(LMNotConfiguredError, match="give one to the call"):
        await Predict("q -> a")(q="?")


async def test_bad_inputs_fail_before_the_model_is_asked() -> None:
    lm = chatty()
    with pytest.raises(MissingInputError):
        await Predict("q -> a", lm=lm)()
    assert lm.requests == []


async def test_lenient_inputs_are_only_logged() -> None:
    lm = chatty(chat(a="x"))
    predict = Predict("q, r -> a", lm=lm, strict_inputs=False)
    assert (await predict(q="?", extra=1)).a == "x"


async def test_model_of_the_call_is_used_where_the_predictor_has_none() -> None:
    ambient, own = chatty(chat(a="ambient")), chatty(chat(a="own"))
    assert (await Predict("q -> a").run({"q": "?"}, lm=ambient)).a == "ambient"
    assert (await Predict("q -> a", lm=own).run({"q": "?"}, lm=ambient)).a == "own"


class Journal:
    """Makes each call once, as the engine does."""

    def __init__(self) -> None:
        self.results: dict[str, object] = {}

    async def perform(self, fingerprint: str, call: Callable[[], Awaitable[T]]) -> T:
        if fingerprint not in self.results:
            self.results[fingerprint] = await call()
        return cast(T, self.results[fingerprint])


async def test_model_calls_go_through_the_journal() -> None:
    lm = chatty("no idea", chat(a="once"))
    journal = Journal()
    for _ in range(3):
        prediction = await Predict("q -> a", lm=lm).run({"q": "?"}, effects=journal)
        assert prediction.a == "once"
    assert len(lm.requests) == len(journal.results) == 2


async def test_settings_reach_the_request() -> None:
    lm = chatty(chat(a="x"))
    await Predict("q -> a", lm=lm, temperature=0.5, max_tokens=9, stop="END")(q="?")
    request = lm.requests[0]
    assert (request.temperature, request.max_tokens, request.stop) == (0.5, 9, ("END",))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"temprature": 1}, "'temprature' = 1 is unknown"),
        ({"temperature": 9}, "'temperature' = 9"),
        ({"n": 0}, "'n' = 0"),
        ({"adapter": "yaml"}, "'adapter' = 'yaml' is unknown; there are chat, json"),
    ],
)
def test_bad_settings_fail_at_once(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Predict("q -> a", **settings)


async def test_several_completions_are_all_kept() -> None:
    lm = ScriptedLM(
        lambda _: chat(a="x"), capabilities=Capabilities(json_schema=False, max_n=2)
    )
    prediction = await Predict("q -> a", lm=lm, n=5)(q="?")
    assert [c["a"] for c in prediction.completions] == ["x"] * 5
    assert sorted(request.n for request in lm.requests) == [1, 2, 2]
    assert len({request.fingerprint() for request in lm.requests}) == 3
    assert {request.temperature for request in lm.requests} == {0.7}


async def test_concurrent_calls_of_one_predictor_do_not_mix(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def answer(request: Request) -> str:
        return chat(a=request.messages[-1].text.split("\n")[1])

    lm = ScriptedLM(answer, capabilities=CHAT, delay=1)
    predict = Predict("q -> a", lm=lm)
    found: dict[int, str] = {}

    async def ask(i: int) -> None:
        found[i] = (await predict(q=f"question {i}")).a

    async with trio.open_nursery() as nursery:
        for i in range(100):
            nursery.start_soon(ask, i)
    assert found == {i: f"question {i}" for i in range(100)}
    assert trio.current_time() == pytest.approx(1)


class TwoSteps(Module):
    def __init__(self) -> None:
        self.first = Predict("question -> query")
        self.second = Predict("question, query -> answer")

    async def forward(self, question: str) -> Prediction:
        query = (await self.first(question=question)).query
        return await self.second(question=question, query=query)


async def test_module_counts_the_usage_of_all_its_predictors() -> None:
    lm = chatty(chat(query="q"), chat(answer="a"))
    prediction = await TwoSteps().run({"question": "?"}, lm=lm)
    assert prediction.answer == "a"
    assert prediction.usage.output_tokens == 2 * len(chat(answer="a").split())


def test_prediction_is_immutable_comparable_and_json() -> None:
    prediction = Prediction(answer="x", score=0.5, copy=1)
    assert prediction == Prediction(answer="x", score=0.5, copy=1)
    assert prediction != Prediction(answer="y", score=0.5, copy=1)
    assert prediction > Prediction(score=0.25)
    assert prediction["copy"] == 1
    assert dict(prediction.outputs) == {"answer": "x", "score": 0.5, "copy": 1}
    with pytest.raises(AttributeError, match="do not change"):
        prediction.answer = "y"
    with pytest.raises(AttributeError, match="no output 'anser'; it has answer"):
        _ = prediction.anser
    assert Prediction.from_json(prediction.to_json()) == prediction


def test_prediction_gets_its_types_back_from_json() -> None:
    signature = Signature("q -> i: Invoice", custom_types={"Invoice": Invoice})
    prediction = Prediction(i=Invoice(total=1, address=Address(street="s")))
    plain = json.loads(json.dumps(prediction.to_json()))
    assert Prediction.from_json(plain, signature=signature) == prediction


async def test_an_input_without_its_name_is_told_how_to_be_given() -> None:
    predict = Predict("question -> answer", lm=ScriptedLM(["unused"]))
    with pytest.raises(TypeError, match=r"takes its inputs by name.*'My invoice'"):
        await predict("My invoice")
