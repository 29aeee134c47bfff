"""Steps of the python backend, embedded: they import what their host can import."""

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
def shout(text: str) -> dict[str, object]:
    return {"loud": text.upper()}
"""

HEAD = """
import sys
import dspex
from dspex import App, Program, Step
from dspex.testing import ScriptedLM
from dspex.worker.application import open_app

step = Step(module=sys.argv[1], backend="python", signature="text -> loud")
program = Program(name="p", steps={"shout": step})
lm = ScriptedLM([])
app = App(program, lm=lm)
"""

WAYS = {
    "open_runtime": """
import trio
async def main():
    async with dspex.open_runtime(lm) as rt:
        print((await rt.run(program, text="a")).outputs["loud"])
trio.run(main)
""",
    "open_app": """
import trio
async def main():
    async with open_app(app) as rt:
        print((await rt.run("p", text="a")).outputs["loud"])
trio.run(main)
""",
    "aio": """
import asyncio
async def main():
    async with dspex.aio.open_runtime(app, search_path=sys.argv[2:]) as rt:
        print((await rt.run("p", text="a")).outputs["loud"])
asyncio.run(main())
""",
    "sync": """
with dspex.sync.open_runtime(app, search_path=sys.argv[2:]) as rt:
    print(rt.run("p", text="a").outputs["loud"])
""",
}


def run(script: Path, way: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script.write_text(HEAD + WAYS[way])
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_imported_from_the_folder_of_the_script(
    way: str, tmp_path: Path
) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    done = run(tmp_path / "main.py", way, "steps:shout")
    assert (done.returncode, done.stdout) == (0, "A\n"), done.stderr


@pytest.mark.parametrize("way", ["aio", "sync"])
def test_a_step_is_imported_from_a_folder_of_the_search_path(
    way: str, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/steps.py").write_text(STEPS)
    done = run(tmp_path / "main.py", way, "steps:shout", str(tmp_path / "code"))
    assert (done.returncode, done.stdout) == (0, "A\n"), done.stderr


def test_a_module_that_is_not_found_is_told_with_where_it_was_looked_for(
    tmp_path: Path,
) -> None:
    done = run(tmp_path / "main.py", "aio", "steps:shout")
    told = done.stderr.splitlines()[-1]
    assert "there is no module 'steps' on the search path (" in told
    assert str(tmp_path) in told
    assert "add its folder by search_path=[...]" in told
