"""What `dspex programs` does: versions of programs in a store, and what they say."""

import difflib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_jsonable_python
from rich import box
from rich.console import Console
from rich.table import Table

from dspex.providers import OpenAI
from dspex.runtime import DspexError
from dspex.runtime.bridge import BridgeUnavailableError
from dspex.runtime.engine import Program
from dspex.runtime.engine.explain import explain
from dspex.runtime.journal import Journal, ProgramVersion
from dspex.worker.logs import complain
from dspex.worker.open_runtime import open_runtime
from dspex.worker.runs_command import open_journal


class BadVersionError(DspexError):
    """What should name a version of a program does not."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text!r} names no version: write NAME or NAME@NUMBER")


async def list_programs(store: str, *, as_json: bool) -> int:
    """Print every version of every program."""
    async with open_journal(store) as journal:
        versions = await journal.programs()
    if as_json:
        for it in versions:
            print(json.dumps(to_jsonable_python(it)))  # noqa: T201
        return 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("program", "parent", "steps", "made by", "scores"):
        table.add_column(name)
    for it in versions:
        scores = ", ".join(f"{name} {value:g}" for name, value in it.scores.items())
        table.add_row(
            f"{it.name}@{it.version}",
            "" if it.parent is None else str(it.parent),
            str(len(it.body["steps"])),
            it.made_by,
            scores,
        )
    Console().print(table)
    return 0


async def show_program(program: str, *, store: str | None) -> int:
    """Draw the graph of a program: of a file, or of a version in a store."""
    path = Path(program)
    if store is None or path.suffix in {".yaml", ".yml", ".json"}:
        found = Program.load(path)
    else:
        async with open_journal(store) as journal:
            found = Program.model_validate((await find_version(journal, program)).body)
    # Nothing is asked of a model: a plan is made and told.
    nobody = OpenAI("none", base_url="http://127.0.0.1:9/v1", api_key="none")
    folders: list[str | Path] = [path.parent, "."]
    async with open_runtime(nobody, search_path=folders) as runtime:
        plan = runtime.plan(found)
        try:
            # Only its process knows what a python step's module can be.
            if any(step.backend == "python" for step in found.steps.values()):
                await runtime.load(found)
        except BridgeUnavailableError as error:
            complain(f"its python steps were not looked up: {error}")
        print(explain(plan))  # noqa: T201
    return 0


async def diff_programs(store: str, left: str, right: str) -> int:
    """Print how two versions differ; status 1 when they do."""
    async with open_journal(store) as journal:
        versions = [await find_version(journal, text) for text in (left, right)]
    old, new = (
        yaml.safe_dump(it.body, sort_keys=False).splitlines() for it in versions
    )
    before, after = (f"{it.name}@{it.version}" for it in versions)
    lines = list(difflib.unified_diff(old, new, before, after, lineterm=""))
    for line in lines:
        print(line)  # noqa: T201
    return 1 if lines else 0


async def export_program(store: str, program: str) -> int:
    """Print a version as JSON, to be loaded or imported elsewhere."""
    async with open_journal(store) as journal:
        found = await find_version(journal, program)
    print(json.dumps(found.body, indent=2))  # noqa: T201
    return 0


async def import_program(store: str, path: Path, *, made_by: str) -> int:
    """Keep a program of a file as a version."""
    program = Program.load(path)
    body: dict[str, Any] = program.model_dump(mode="json")  # Any: JSON
    async with open_journal(store, must_exist=False) as journal:
        saved = await journal.save_program(program.name, body, made_by=made_by)
    print(f"{saved.name}@{saved.version}")  # noqa: T201
    return 0


async def rollback_program(store: str, program: str) -> int:
    """Make an old version the newest again, as a version of its own."""
    async with open_journal(store) as journal:
        old = await find_version(journal, program)
        saved = await journal.save_program(
            old.name,
            old.body,
            made_by=f"rollback to {old.version}",
            scores=old.scores,
            always_new=True,
        )
    print(f"{saved.name}@{saved.version}")  # noqa: T201
    return 0


def print_schema() -> int:
    """Print the JSON Schema of program files."""
    print(json.dumps(Program.model_json_schema(), indent=2))  # noqa: T201
    return 0


async def find_version(journal: Journal, text: str) -> ProgramVersion:
    """Give the version that NAME@NUMBER is, or the newest of NAME.

    Raises:
        BadVersionError: it names none.
        VersionNotFoundError: it is not there.
    """
    name, at, number = text.partition("@")
    if not name or (at and not number.isdecimal()):
        raise BadVersionError(text)
    return await journal.program(name, int(number) if at else None)
