"""What can be hosted: modules, tools, types, values, optimizers, interpreters."""

import datetime
import sys
import venv
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pydantic
import pytest
import trio
import trio.lowlevel

from dspex.runtime import ActorRef, Node, StartError, open_node
from dspex.runtime.bridge import (
    BridgeUnavailableError,
    DspyBridge,
    DspyCall,
    DspyPool,
    Example,
    History,
    HostedTool,
    Image,
    Optimization,
    PoolSettings,
    RemoteError,
    ToolCalls,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields, no_model, response
from dspex.testing import Answer, open_fake_provider

HOSTED = Path(__file__).parent / "hosted"
PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with open_node() as node:
        yield node


@pytest.fixture
async def pool(node: Node) -> ActorRef[DspyPool]:
    settings = PoolSettings(spares=0)
    return await node.start(DspyPool(settings, search_path=[HOSTED]), name="pool")


ADD = HostedTool(
    "add",
    "Add two numbers.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)


async def test_a_tool_of_the_parent_is_called_by_a_hosted_react(
    pool: ActorRef[DspyPool],
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    async def tools(name: str, arguments: dict[str, Any]) -> object:
        await trio.lowlevel.checkpoint()
        calls.append((name, arguments))
        if arguments["b"] == 0:
            raise ZeroDivisionError("not today")
        return arguments["a"] + arguments["b"]

    def step(thought: str, name: str, args: str) -> str:
        return fields(next_thought=thought, next_tool_name=name, next_tool_args=args)

    model = ScriptedModel(
        step("add", "add", '{"a": 2, "b": 0}'),
        step("again", "add", '{"a": 2, "b": 3}'),
        step("done", "finish", "{}"),
        fields(reasoning="it says so", answer=5),
    )
    call = DspyCall(
        module="dspy.ReAct",
        signature="question -> answer: int",
        inputs={"question": "2 + 3?"},
        tools=[ADD],
    )
    result = await pool.call(DspyPool.run, call, model, tools, timeout=30)
    assert result.outputs["answer"] == 5
    assert calls == [("add", {"a": 2, "b": 0}), ("add", {"a": 2, "b": 3})]
    trajectory = result.outputs["trajectory"]
    assert "ZeroDivisionError: not today" in trajectory["observation_0"]
    assert trajectory["observation_1"] == 5


async def test_native_tool_calls_cross_over(pool: ActorRef[DspyPool]) -> None:
    asked: list[dict[str, Any]] = []

    async def model(request: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        asked.append(request)
        answer = response("")
        answer["choices"][0] |= {
            "tool_calls": [
                {"id": "c1", "name": "add", "arguments": '{"a": 1, "b": 2}'}
            ],
            "finish_reason": "tool_calls",
        }
        return answer

    call = DspyCall(
        module="hosted_programs:CallsTools",
        inputs={"question": "1 + 2?"},
        tools=[ADD],
        native_tools=True,
    )
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {
        "outputs": {"tool_calls": [{"name": "add", "args": {"a": 1, "b": 2}}]}
    }
    assert [tool["name"] for tool in asked[0]["tools"]] == ["add"]


class Part(pydantic.BaseModel):
    name: str
    price: float = pydantic.Field(ge=0)


class Order(pydantic.BaseModel):
    customer: str
    day: datetime.date
    parts: list[Part]
    note: str | None = None


async def test_pydantic_types_cross_by_schema(pool: ActorRef[DspyPool]) -> None:
    text = (
        '{"customer": "Ann", "day": "2026-01-02",'
        ' "parts": [{"name": "bolt", "price": 1.5}], "note": null}'
    )
    model = ScriptedModel(f'{{"order": {text}}}')
    call = DspyCall(
        module="dspy.Predict",
        signature="letter: str, last: Order -> order: Order",
        types={"Order": Order.model_json_schema()},
        inputs={
            "letter": "Dear Sirs",
            "last": Order(customer="Bob", day=datetime.date(2025, 1, 1), parts=[]),
        },
        adapter="json",
    )
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    order = Order.model_validate(result.outputs["order"])
    assert order.parts == [Part(name="bolt", price=1.5)]
    assert order.day == datetime.date(2026, 1, 2)
    (request,) = model.requests
    assert "Bob" in request["messages"][-1]["content"]
    properties = request["output_schema"]["schema"]["$defs"]["Order"]["properties"]
    assert list(properties) == ["customer", "day", "parts", "note"]


async def test_a_value_that_breaks_its_schema_is_refused(
    pool: ActorRef[DspyPool],
) -> None:
    wrong = '{"part": {"name": "bolt", "price": -1}}'
    call = DspyCall(
        module="dspy.Predict",
        signature="letter -> part: Part",
        types={"Part": Part.model_json_schema()},
        inputs={"letter": "Dear Sirs"},
        adapter="json",
    )
    with pytest.raises(RemoteError, match="greater than or equal to 0"):
        await pool.call(DspyPool.run, call, ScriptedModel(wrong), timeout=30)


async def test_dspys_own_types_travel_by_tag(pool: ActorRef[DspyPool]) -> None:
    history = History(({"question": "a?", "answer": "b"},))
    day = datetime.date(2026, 2, 3)
    call = DspyCall(
        module="hosted_programs:kinds",
        inputs={"image": Image(PNG), "day": day, "history": history},
    )
    result = await pool.call(DspyPool.run, call, no_model, timeout=30)
    assert result.outputs == {
        "names": ["Image", "date", "History"],
        "image": Image(PNG),
        "day": day,
        "history": history,
    }


async def test_examples_predictions_tools_and_their_calls_travel_both_ways(
    pool: ActorRef[DspyPool],
) -> None:
    async def tools(name: str, arguments: dict[str, Any]) -> object:
        await trio.lowlevel.checkpoint()
        return [name, arguments["a"] + arguments["b"]]

    wanted = {"name": "add", "args": {"a": 2, "b": 3}}
    call = DspyCall(
        module="hosted_programs:rows",
        inputs={
            "row": Example({"question": "2 + 3?", "answer": 5}, ("question",)),
            "wanted": ToolCalls((wanted,)),
            "tool": ADD,
        },
    )
    result = await pool.call(DspyPool.run, call, no_model, tools, timeout=30)
    tool = result.outputs.pop("tool")
    assert isinstance(tool, HostedTool)
    assert (tool.name, tool.description) == (ADD.name, ADD.description)
    assert tool.parameters["properties"] == ADD.parameters["properties"]
    assert result.outputs == {
        "names": ["Example", "ToolCalls", "Tool"],
        "inputs": ["question"],
        "row": {"question": "2 + 3?", "answer": 5},
        "prediction": {"answer": 5},
        "wanted": {"tool_calls": [wanted]},
        "told": ["add", 5],
    }


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("two words", {}, "tool 'two words': a name has 1 to 64 letters"),
        ("", {}, "tool '': a name has"),
        ("add", {"type": "array"}, "tool 'add': its parameters are of type 'array'"),
    ],
)
def test_l9_a_tool_that_no_model_could_call_is_refused(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HostedTool(name, "", parameters)


def test_l9_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tools of dspy\.ReAct: two are called 'add'"):
        DspyCall(module="dspy.ReAct", inputs={}, tools=[ADD, ADD])


async def test_l9_arguments_that_are_no_json_are_an_error(
    pool: ActorRef[DspyPool],
) -> None:
    async def model(request: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        answer = response("")
        answer["choices"][0] |= {
            "tool_calls": [{"id": "c1", "name": "add", "arguments": '{"a": 1, '}],
            "finish_reason": "tool_calls",
        }
        return answer

    call = DspyCall(
        module="hosted_programs:CallsTools",
        inputs={"question": "1 + 2?"},
        tools=[ADD],
        native_tools=True,
    )
    with pytest.raises(RemoteError, match=r"'add' are no JSON"):
        await pool.call(DspyPool.run, call, model, timeout=30)


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


async def test_an_image_reaches_the_parents_model(pool: ActorRef[DspyPool]) -> None:
    model = ScriptedModel(fields(answer="a cat"))
    call = DspyCall(
        module="dspy.Predict",
        signature="picture: dspy.Image -> answer",
        inputs={"picture": Image(PNG)},
    )
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {"answer": "a cat"}
    parts = model.requests[0]["messages"][-1]["content"]
    (image,) = [part for part in parts if part["type"] == "image"]
    assert (image["media_type"], image["data"]) == ("image/png", "iVBORw0KGgo=")


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


class Typewriter(ScriptedModel):
    """Tells its text in pieces of five letters."""

    async def stream(
        self, request: dict[str, Any], tell: Callable[[str], None]
    ) -> dict[str, Any]:
        answer = await self(request)
        text = answer["choices"][0]["text"]
        for start in range(0, len(text), 5):
            tell(text[start : start + 5])
            await trio.lowlevel.checkpoint()
        return answer


@pytest.mark.parametrize("model", [Typewriter, ScriptedModel])
async def test_fields_are_streamed_while_the_model_writes(
    pool: ActorRef[DspyPool], model: type[ScriptedModel]
) -> None:
    text = "bees make honey out of nectar, and wax out of honey"
    call = DspyCall(
        module="dspy.ChainOfThought",
        signature="question -> answer",
        inputs={"question": "What do bees make?"},
        adapter="chat",
        stream=["answer"],
    )
    events: list[dict[str, Any]] = []

    async def hear(event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        events.append(event)

    script = model(fields(reasoning="I know bees", answer=text, completed=""))
    result = await pool.call(DspyPool.run, call, script, None, hear, timeout=30)
    assert result.outputs == {"reasoning": "I know bees", "answer": text}
    assert result.usage["output_tokens"] == 5
    assert {event["field"] for event in events} == {"answer"}
    assert "".join(event["text"] for event in events).strip() == text
    assert len(events) > 5
    assert events[-1]["is_last"]


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


async def test_what_is_kept_of_a_signature_is_what_dspy_says_of_it(
    pool: ActorRef[DspyPool],
) -> None:
    call = DspyCall(module="hosted_programs:differences", inputs={})
    result = await pool.call(DspyPool.run, call, no_model, timeout=30)
    assert result.outputs == {"differences": []}


async def test_another_virtual_environment_hosts_as_well(
    node: Node, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env/lib").glob("*/site-packages")
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "here.pth").write_text(here + "\n")
    (site / "only_there.py").write_text("import sys\ndef prefix(): return sys.prefix\n")
    bridge = await node.start(DspyBridge(python=str(python)))
    call = DspyCall(module="only_there:prefix", signature="-> prefix", inputs={})
    result = await bridge.call(DspyBridge.run, call, no_model, timeout=30)
    assert result.outputs == {"prefix": str(tmp_path / "env")}


async def test_a_second_interpreter_without_dspy_says_what_to_install(
    node: Node, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    for actor in (DspyBridge(python=str(python)), DspyPool(python=str(python))):
        problem = await problem_of(node, actor)
        assert f"{python} cannot host dspy: dspy is not installed" in problem
        assert f"`{python} -m pip install 'dspy>=3.4,<3.5' msgspec`" in problem


async def test_a_second_interpreter_whose_dspy_is_another_version_names_both(
    node: Node, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env/lib").glob("*/site-packages")
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "here.pth").write_text(here + "\n")
    # What pip leaves of another version; it comes before the other on the path, and
    # must not be imported: what it needs may not be there.
    (site / "dspy").mkdir()
    (site / "dspy/__init__.py").write_text("import only_dspy_2_needs_this\n")
    info = site / "dspy-2.6.27.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: dspy\nVersion: 2.6.27\n"
    )
    problem = await problem_of(node, DspyPool(python=str(python)))
    assert "its dspy is 2.6.27, the bridge needs >=3.4,<3.5" in problem


async def problem_of(node: Node, actor: DspyBridge | DspyPool) -> str:
    with pytest.raises(StartError) as caught:
        await node.start(actor)
    reason: object = caught.value
    while isinstance(reason, StartError):
        reason = reason.reason
    assert isinstance(reason, BridgeUnavailableError)
    return str(reason)


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
