"""The examples and the code in the docs of the providers run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from dspex.providers import (
    LM,
    Message,
    OutputSchema,
    Request,
    UnsupportedError,
    Usage,
)
from dspex.testing import Action, Fail, Raw, open_fake_provider

ROOT = Path(__file__).parents[2]


def run_example(name: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def example(name: str) -> str:
    return await trio.to_thread.run_sync(run_example, name)


async def test_stream_shows_the_answer_as_it_comes() -> None:
    out = await example("stream.py")
    assert out.rstrip().endswith("out)")
    assert len(out.splitlines()[0]) > 20


async def test_fallback_answers_and_leaves_the_first_alone() -> None:
    out = await example("fallback.py")
    assert out.count("Paris, said small") == 5
    assert "requests to the first: 4" in out
    assert "requests to the second: 5" in out


async def test_rate_limits_pause_all_callers() -> None:
    out = await example("rate_limits.py")
    assert "20 calls, 21 requests" in out
    silence = float(out.split("longest silence: ")[1].split(" ")[0])
    assert silence >= 1.0


async def test_a_provider_is_added_in_under_80_lines() -> None:
    text = (ROOT / "docs" / "providers.md").read_text()
    code = text.split("```python\n# ollama.py\n")[1].split("```")[0]
    assert len(code.splitlines()) < 80
    namespace: dict[str, Any] = {}  # Any: what the docs define
    exec(compile(code, "ollama.py", "exec"), namespace)
    reply = {
        "model": "tiny",
        "message": {"role": "assistant", "content": "Hello"},
        "done_reason": "length",
        "prompt_eval_count": 9,
        "eval_count": 4,
    }
    plan: list[Action] = [Fail(503), Raw(json.dumps(reply).encode())]
    request = Request(
        (Message.user("Hi"),),
        output_schema=OutputSchema("x", {"type": "object"}),
        temperature=0.0,
    )
    async with (
        open_fake_provider(plan) as server,
        namespace["Ollama"]("tiny", base_url=server.url) as ollama,
    ):
        lm: LM = ollama
        response = await lm.complete(request)
        with pytest.raises(UnsupportedError, match="cannot stream"):
            async with ollama.stream("Hi"):
                pass
    assert lm.name == "ollama:tiny"
    assert response.text == "Hello"
    assert response.choices[0].finish_reason == "length"
    assert response.usage == Usage(9, 4)
    assert server.requests[1].path == "/v1/chat"
    assert server.requests[1].json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
        "options": {"temperature": 0.0},
        "format": {"type": "object"},
    }
