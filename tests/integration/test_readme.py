"""Every command and every example of the README, run as it stands there."""

import re
import shlex
import subprocess
import sys
from functools import partial

import pytest
import trio

from dspex.testing import Action, ProviderRequest, open_fake_provider
from tests.integration.dspex_command import (
    ROOT,
    Finished,
    dspex,
    schema_answers,
    two_at_a_time,
)

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (dspex (?:run|doctor).*)$", README, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
TARGETS = re.findall(r"^    make (\w+)$", README, re.MULTILINE)


def test_the_readme_has_what_these_tests_look_for() -> None:
    assert len(COMMANDS) >= 4
    assert len(BLOCKS) >= 4
    assert {"demo", "test"} <= set(TARGETS)


@pytest.mark.parametrize("target", sorted({*TARGETS, "check", "bench"}))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def finished() -> dict[str, Finished]:
    """Run every command; most wait for the embedded model."""
    works = {
        # The one for ten tickets first.
        it: partial(dspex, *shlex.split(it.partition(" > ")[0])[1:])
        for it in sorted(COMMANDS, key=len, reverse=True)
    }
    return trio.run(two_at_a_time, works)


@pytest.mark.parametrize("command", COMMANDS)
def test_g1_every_command_of_the_readme_runs(
    command: str, finished: dict[str, Finished]
) -> None:
    done = finished[command]
    assert done.status == 0, done.err
    assert done.out


@pytest.mark.parametrize("block", BLOCKS)
async def test_g1_every_example_of_the_readme_runs(block: str) -> None:
    def answer(request: ProviderRequest) -> Action:
        assert request.headers["authorization"] == "Bearer a-key"
        return schema_answers()(request)

    async with open_fake_provider(answer) as server:
        # The one thing that the machine of a test does not have is OpenAI.
        model = f'OpenAI("gpt-4o-mini", base_url="{server.url}", api_key="a-key")'
        done = await run_python(block.replace('OpenAI("gpt-4o-mini")', model))
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout) == ("print(" in block)


async def run_python(code: str) -> "subprocess.CompletedProcess[bytes]":
    return await trio.run_process(
        [sys.executable, "-c", code],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=ROOT,
    )
