import itertools
from typing import Any

import pytest
import trio
import trio.testing

from dspex.modules import (
    AssertionFailedError,
    ChainOfThought,
    Module,
    Predict,
    Prediction,
    ReAct,
    ensure,
    record_trace,
    suggest,
)
from dspex.providers import Request
from dspex.providers.lm import Capabilities
from dspex.testing import ScriptedLM

CHAT = Capabilities(json_schema=False, tools=False)


def says(**outputs: object) -> str:
    return "\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in outputs.items())


def chatty(*script: str) -> ScriptedLM:
    return ScriptedLM(script, capabilities=CHAT)


class Pipeline(Module):
    """Two steps, the second of which has to be short."""

    def __init__(self, **options: Any) -> None:
        self.first = Predict("question -> query")
        self.second = Predict("query -> answer")
        self.options = options
        self.passes = 0

    async def forward(self, question: str) -> Prediction:
        self.passes += 1
        query = (await self.first(question=question)).query
        found = await self.second(query=query)
        ensure(
            len(found.answer) <= 5,
            f"Answer in 5 characters, not {len(found.answer)}.",
            **self.options,
        )
        return found


async def test_e1_predictor_is_asked_again_with_its_answer_and_the_message() -> None:
    lm = chatty(
        says(query="q"),
        says(answer="far too long"),
        says(answer="still long"),
        says(answer="short"),
    )
    program = Pipeline()
    found = await program.run({"question": "?"}, lm=lm)
    assert found.answer == "short"
    assert program.passes == 3
    # The first predictor was asked once, for all passes.
    assert len(lm.requests) == 4
    third = lm.requests[3].messages
    assert [m.role for m in third] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert "far too long" in third[2].text
    assert "Answer in 5 characters, not 12." in third[3].text
    assert "still long" in third[4].text
    assert "Answer in 5 characters, not 10." in third[5].text
    # Every call is counted, those that were not accepted too.
    spoken = sum(len(a.split()) for a in (
        says(query="q"), says(answer="far too long"), says(answer="still long"),
        says(answer="short"),
    ))  # fmt: skip
    assert found.usage.output_tokens == spoken


@pytest.mark.parametrize(("retries", "calls"), [(0, 2), (1, 3), (2, 4), (5, 7)])
async def test_e2_ensure_fails_after_exactly_its_retries(
    retries: int, calls: int
) -> None:
    numbers = itertools.count(1)
    lm = ScriptedLM(
        lambda request: (
            says(query="q")
            if "query ## ]]," in request.messages[1].text
            else says(answer=f"long answer {next(numbers)}")
        ),
        capabilities=CHAT,
    )
    with pytest.raises(AssertionFailedError) as caught:
        await Pipeline(max_retries=retries).run({"question": "?"}, lm=lm)
    error = caught.value
    assert len(lm.requests) == calls
    assert len(error.attempts) == retries + 1
    assert [a.outputs["answer"] for a in error.attempts] == [
        f"long answer {i + 1}" for i in range(retries + 1)
    ]
    assert error.last_outputs == {"answer": f"long answer {retries + 1}"}
    assert all("Answer in 5 characters" in a.message for a in error.attempts)
    assert "query -> answer" in (error.target or "")


class Suggesting(Module):
    def __init__(self) -> None:
        self.answer = Predict("question -> answer")

    async def forward(self, question: str) -> Prediction:
        found = await self.answer(question=question)
        suggest(found.answer.isupper(), "Shout.", max_retries=1)
        return found


async def test_e2_suggest_goes_on_and_is_recorded() -> None:
    lm = chatty(says(answer="quiet"), says(answer="still quiet"))
    found = await Suggesting().run({"question": "?"}, lm=lm)
    assert found.answer == "still quiet"
    assert found.suggestions == ("Shout.",)
    assert len(lm.requests) == 2
    heard = await Suggesting().run({"question": "?"}, lm=chatty(says(answer="LOUD")))
    assert heard.suggestions == ()


async def test_e2_concurrent_runs_share_no_feedback(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def rule(request: Request) -> str:
        number = int(request.messages[1].text.split("\n")[1])
        text = "".join(message.text for message in request.messages)
        assert all(
            f"number {other}." not in text for other in range(100) if other != number
        )
        tries = sum(message.role == "assistant" for message in request.messages)
        return says(answer=f"{number} {tries}")

    lm = ScriptedLM(rule, capabilities=CHAT, delay=1)

    class Each(Module):
        def __init__(self) -> None:
            self.answer = Predict("question -> answer")

        async def forward(self, question: str) -> Prediction:
            found = await self.answer(question=question)
            tries = int(found.answer.split()[1])
            ensure(tries >= int(question) % 3, f"Once more, number {question}.")
            return found

    program, results = Each(), dict[int, str]()

    async def run(number: int) -> None:
        found = await program.run({"question": str(number)}, lm=lm)
        results[number] = found.answer

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(run, number)
    assert results == {number: f"{number} {number % 3}" for number in range(100)}


@pytest.mark.parametrize("error", [ValueError("bug"), AssertionError("assert")])
async def test_e2_ordinary_exceptions_are_not_retried(error: Exception) -> None:
    class Buggy(Module):
        def __init__(self) -> None:
            self.answer = Predict("question -> answer")
            self.passes = 0

        async def forward(self, question: str) -> Prediction:
            self.passes += 1
            await self.answer(question=question)
            raise error

    program = Buggy()
    with pytest.raises(type(error)):
        await program.run({"question": "?"}, lm=chatty(says(answer="a")))
    assert program.passes == 1


async def test_target_names_the_predictor_to_blame() -> None:
    class Targeted(Module):
        def __init__(self) -> None:
            self.draft = ChainOfThought("question -> draft")
            self.polish = Predict("draft -> answer")

        async def forward(self, question: str) -> Prediction:
            draft = (await self.draft(question=question)).draft
            found = await self.polish(draft=draft)
            ensure(draft != "bad", "Write a better draft.", target=self.draft)
            return found

    lm = chatty(
        says(reasoning="r", draft="bad"),
        says(answer="a1"),
        says(reasoning="r", draft="good"),
        says(answer="a2"),
    )
    found = await Targeted().run({"question": "?"}, lm=lm)
    assert found.answer == "a2"
    assert "Write a better draft." in lm.requests[2].messages[-1].text


async def test_two_checks_have_their_retries_each() -> None:
    class Both(Module):
        def __init__(self) -> None:
            self.answer = Predict("question -> answer")

        async def forward(self, question: str) -> Prediction:
            found = await self.answer(question=question)
            ensure("a" in found.answer, "Use an a.", max_retries=1)
            ensure("b" in found.answer, "Use a b.", max_retries=1)
            return found

    lm = chatty(says(answer="x"), says(answer="a"), says(answer="ab"))
    assert (await Both().run({"question": "?"}, lm=lm)).answer == "ab"


async def test_finished_tool_calls_are_not_made_again() -> None:
    ran: list[str] = []

    def fetch(key: str) -> str:
        ran.append(key)
        return f"value of {key}"

    class Agent(Module):
        def __init__(self) -> None:
            self.agent = ReAct("question -> fact", [fetch], protocol="text")
            self.answer = Predict("fact -> answer")

        async def forward(self, question: str) -> Prediction:
            fact = (await self.agent(question=question)).fact
            found = await self.answer(fact=fact)
            ensure(found.answer == "good", "Be good.")
            return found

    lm = chatty(
        "Action[fetch](k)", "Finish[f]", says(answer="bad"), says(answer="good")
    )
    assert (await Agent().run({"question": "?"}, lm=lm)).answer == "good"
    assert ran == ["k"]
    assert len(lm.requests) == 4


async def test_check_in_a_nursery_backtracks_too() -> None:
    class Parallel(Module):
        def __init__(self) -> None:
            self.answer = Predict("question -> answer")

        async def forward(self, question: str) -> Prediction:
            found: list[Prediction] = []

            async def ask(part: str) -> None:
                answer = await self.answer(question=part)
                ensure(answer.answer != "no", "Say yes.")
                found.append(answer)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, question)
            return found[0]

    lm = chatty(says(answer="no"), says(answer="yes"))
    assert (await Parallel().run({"question": "?"}, lm=lm)).answer == "yes"


async def test_checks_of_a_predictor_are_shown_to_the_model() -> None:
    def short(prediction: Prediction) -> bool | str:
        return len(prediction.answer) < 5 or "Too long."

    lm = chatty(says(answer="longer"), says(answer="ok"))
    predict = Predict("question -> answer", lm=lm, checks=[short])
    assert (await predict(question="?")).answer == "ok"
    assert "Too long." in lm.requests[1].messages[-1].text
    lm = chatty(*[says(answer="longer")] * 3)
    predict = Predict("question -> answer", lm=lm, checks=[short])
    with pytest.raises(AssertionFailedError, match="Too long") as caught:
        await predict(question="?")
    assert len(caught.value.attempts) == 3


def test_outside_of_a_run_ensure_fails_at_once_and_suggest_does_nothing() -> None:
    ensure(True, "fine")
    suggest(False, "would be nice")
    with pytest.raises(AssertionFailedError, match="not fulfilled: must be"):
        ensure(False, "must be")


async def test_trace_has_the_steps_that_counted() -> None:
    lm = chatty(says(query="q"), says(answer="too long"), says(answer="ok"))
    program = Pipeline()
    with record_trace() as steps:
        await program.run({"question": "?"}, lm=lm)
    assert [s.predictor for s in steps] == [program.first, program.second]
    assert steps[1].prediction.answer == "ok"
    assert steps[1].inputs == {"query": "q"}
