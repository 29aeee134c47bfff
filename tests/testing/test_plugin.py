"""The fixtures in a project of its own, with no configuration of pytest at all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
TESTS = [
    it
    for it in re.findall(r"```python\n(.+?)```", DOCS, re.DOTALL)
    if "def test_" in it
]


def run_pytest(folder: Path, *options: str) -> str:
    """Run the tests of a folder, of which the first failure is told."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


ASYNC = """
import trio

async def test_it({fixture}):
    assert trio.lowlevel.in_trio_run()
"""


def test_an_async_test_with_any_fixture_is_run_by_trio(tmp_path: Path) -> None:
    fixtures = (
        *("runtime", "scripted_lm", "fake_provider", "faults", "cassette"),
        "no_network",
    )
    for name in fixtures:
        (tmp_path / f"test_{name}.py").write_text(ASYNC.format(fixture=name))
    assert f"{len(fixtures)} passed" in run_pytest(tmp_path)


ANYIO = """
import sys
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_it(scripted_lm):
    import asyncio
    assert asyncio.get_running_loop()
"""


def test_a_test_of_anyio_stays_anyios(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(ANYIO)
    assert "1 passed" in run_pytest(tmp_path)


@pytest.mark.parametrize("text", TESTS)
def test_the_tests_in_the_docs_pass_as_they_stand(text: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(text)
    assert "1 passed" in run_pytest(tmp_path)
