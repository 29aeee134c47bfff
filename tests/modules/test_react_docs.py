"""The examples of docs/react.md, run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from dspex.providers import ToolCall
from dspex.testing import Action, Answer, ProviderRequest, open_fake_provider
from dspex.testing.schema_values import value_of

DOCS = (Path(__file__).parents[2] / "docs" / "react.md").read_text()
BLOCKS = re.findall(r"```python\n(.+?)```", DOCS, re.DOTALL)
PROGRAMS = [it for it in BLOCKS if "trio.run(main)" in it]
PARTS = [it for it in BLOCKS if "await" not in it]


def test_the_page_has_what_these_tests_look_for() -> None:
    assert (len(PROGRAMS), len(PARTS)) == (2, 1)


def finish(request: ProviderRequest) -> Action:
    """Call the tool that ends an agent, with an answer of the right type."""
    functions = [it["function"] for it in request.json["tools"]]
    (schema,) = [it["parameters"] for it in functions if it["name"] == "finish"]
    call = ToolCall("c", "finish", json.dumps(value_of(schema)))
    return Answer("", tool_calls=(call,))


@pytest.mark.parametrize("block", PROGRAMS)
async def test_every_program_runs(block: str) -> None:
    async with open_fake_provider(finish) as server:
        model = f'OpenAI("gpt-4o-mini", base_url="{server.url}", api_key="k")'
        code = block.replace('OpenAI("gpt-4o-mini")', model)
        done = await trio.run_process(
            [sys.executable, "-c", code],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert done.returncode == 0, done.stdout.decode()
    assert done.stdout.split()[0] in (b"0.0", b"ok")


@pytest.mark.parametrize("block", PARTS)
def test_every_part_runs(block: str) -> None:
    names: dict[str, object] = {}
    exec(compile(block, "docs/react.md", "exec"), names)  # our own page
    assert "search" in names
