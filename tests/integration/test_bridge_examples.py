"""The examples of the bridge run as they are, on a scripted model."""

import subprocess
import sys
from pathlib import Path

import trio

from dspex import Program, open_runtime
from dspex.providers import Request
from dspex.testing import ScriptedLM

EXAMPLES = Path(__file__).parents[2] / "examples"


def bees(request: Request) -> str:
    system = request.messages[0].text
    if "rationale" in system:
        return '{"rationale": "both say honey", "answer": "Honey"}'
    answer = "Hunny" if "child" in system else "Honey"
    return f'{{"reasoning": "bees are busy", "answer": "{answer}"}}'


async def test_l4_mixed_yaml_runs_native_python_and_dspy_steps() -> None:
    program = Program.load(EXAMPLES / "mixed.yaml")
    async with open_runtime(ScriptedLM(bees), search_path=[EXAMPLES]) as runtime:
        run = await runtime.run(program, question="What do bees make?")
    assert run.outputs == {
        "answer": "Honey",
        "rationale": "both say honey",
        "agreement": 0.6,
    }
    assert {step.name: step.backend for step in run.steps} == {
        "first": "native",
        "second": "native",
        "compare": "python",
        "decide": "python",
    }


async def test_l4_mipro_py_compiles_by_dspy_and_runs_natively() -> None:
    done = await trio.run_process(
        [sys.executable, str(EXAMPLES / "mipro.py")],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
    )
    out = done.stdout.decode()
    assert "before: 0 %, after: 100 %" in out
    assert "in one word" in out
    assert "natively: 4 of 4 right" in out


async def test_hosting_py_hosts_a_module_with_a_tool_and_limits() -> None:
    done = await trio.run_process(
        [sys.executable, str(EXAMPLES / "hosting.py")],
        capture_stdout=True,
        capture_stderr=True,  # the log of the process that was ended
    )
    assert done.stdout.decode().splitlines() == [
        "apples: 7 are left",
        "pears: 0 are left",
        "10 MB: 10000000",
        "2 GB: MemoryError",
        "a long loop: its process was ended, and another takes its place",
        "apples again: 7 are left",
    ]
