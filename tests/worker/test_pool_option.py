"""`--pool-max` of the commands that run programs."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from dspex.runtime import DspexError
from dspex.worker import cli, optimize_cli, runs_cli
from dspex.worker.open_runtime import POOL

PROGRAM = """
name: plain
steps:
  a: {module: "some:function", backend: python, signature: "q -> a"}
"""


class SeenError(DspexError):
    """The runtime was asked for."""


@pytest.mark.parametrize(("option", "size"), [((), 4), (("--pool-max", "37"), 37)])
@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("run_command", ("run", "program.yaml", "-i", "q=b")),
        ("resume_command", ("runs", "resume", "--store", "runs.db")),
        (
            "eval_command",
            ("eval", "program.yaml", "--devset", "data.jsonl", "--metric", "f1:a"),
        ),
        (
            "eval_command",  # which has what both do
            (
                *("compile", "program.yaml", "--trainset", "data.jsonl"),
                *("--metric", "f1:a", "--save", "made.json"),
            ),
        ),
    ],
)
def test_the_pool_is_as_large_as_the_command_is_told(
    module: str,
    command: tuple[str, ...],
    option: tuple[str, ...],
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mains: list[Callable[[], Awaitable[int]]] = []
    pools: list[Any] = []  # Any: whatever it is opened with

    def execute(main: Callable[[], Awaitable[int]], **_: object) -> None:
        mains.append(main)

    def open_runtime(*_: object, pool: object = POOL, **__: object) -> None:
        pools.append(pool)
        raise SeenError

    for it in (cli, optimize_cli, runs_cli):
        monkeypatch.setattr(it, "execute", execute)
    monkeypatch.setattr(f"dspex.worker.{module}.open_runtime", open_runtime)
    monkeypatch.chdir(tmp_path)
    Path("program.yaml").write_text(PROGRAM)
    Path("data.jsonl").write_text('{"q": "b", "a": "c"}\n')
    where = ("--lm", "openai:m", "--base-url", "http://127.0.0.1:1/v1")
    cli.app([*command, *where, *option], standalone_mode=False)
    with pytest.raises(SeenError):
        trio.run(mains[0])
    assert pools[0].max_size == size
