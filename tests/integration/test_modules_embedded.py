"""The modules on the embedded model: mechanics, not quality."""

from collections.abc import AsyncIterator

import pytest

from dspex.modules import ChainOfThought, JSONAdapter, Predict, ReAct, calculator
from dspex.providers import Embedded, EmbeddedServer, MissingPackageError
from dspex.providers.embedded_server import find_model, require_llama
from dspex.runtime import open_node

# A model this small does not end a string by itself.
SHORT = JSONAdapter(max_string_length=40)


@pytest.fixture
async def lm() -> AsyncIterator[Embedded]:
    try:
        find_model()
        require_llama()
    except MissingPackageError as error:
        pytest.skip(str(error))
    async with open_node() as node:
        await node.start(EmbeddedServer(), name="embedded")
        async with Embedded(node.registry, server="embedded") as lm:
            yield lm


async def test_predict_chain_of_thought_and_react_run_on_it(lm: Embedded) -> None:
    sort = Predict("ticket -> category: Literal['billing', 'technical']", lm=lm)
    found = await sort(ticket="My invoice is wrong.")
    assert found.category in ("billing", "technical")

    think = ChainOfThought(
        "question -> answer: int", lm=lm, adapter=SHORT, max_tokens=120, temperature=0.0
    )
    thought = await think(question="What is 2 + 2?")
    assert isinstance(thought.answer, int)
    assert thought.reasoning

    agent = ReAct(
        "question -> answer",
        [calculator],
        lm=lm,
        adapter=SHORT,
        protocol="fields",
        max_iterations=2,
        max_tokens=160,
        temperature=0.0,
    )
    result = await agent(question="What is 25 * 4?")
    assert isinstance(result.answer, str)
    assert 1 <= len(result.steps) <= 2
