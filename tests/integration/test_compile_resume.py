"""A compile that is killed at every acceptance: it goes on, and repeats nothing."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.runtime.engine.journaled import read_stored
from dspex.worker.runs_command import open_journal

CHILD = Path(__file__).with_name("compile_child.py")
DEMOS, CONCURRENCY = 4, 4


class Child:
    """Runs compiles, each in a process of its own that may be killed."""

    def __init__(self, folder: Path, parent: "subprocess.Popen[str]") -> None:
        self._folder = folder
        self._parent = parent

    def run(self, store: str, kill_at: int) -> tuple[int, str]:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        paths = (str(self._folder / name) for name in (store, "asked"))
        print(json.dumps([*paths, kill_at]), file=self._parent.stdin, flush=True)
        status, said = json.loads(self._parent.stdout.readline())
        return status, said


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, CHILD], text=True, **pipes) as parent:
        yield Child(tmp_path, parent)
        parent.stdin.close()  # type: ignore[union-attr]


def read_asked(folder: Path) -> list[str]:
    path = folder / "asked"
    asked = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return asked


async def finished_calls(store: Path) -> set[str]:
    async with open_journal(str(store)) as journal:
        rows = await journal.runs(limit=10)
        keys = [key for row in rows for key in await read_stored(journal, row.id)]
    return {fingerprint.split()[-1] for _, fingerprint, _ in keys}


async def test_f3_compile_killed_at_every_acceptance_repeats_no_finished_call(
    tmp_path: Path, child: Child
) -> None:
    whole = json.loads(child.run("whole.db", 0)[1])
    once = read_asked(tmp_path)
    assert whole["replayed"] == 0
    assert whole["calls"] <= len(once) == len(set(once))

    finished: set[str] = set()
    said = ""
    for kill_at in (*range(1, DEMOS + 1), 0):
        status, said = child.run("killed.db", kill_at)
        assert status == (-signal.SIGKILL if kill_at else 0), said
        mine = read_asked(tmp_path)
        assert finished.isdisjoint(mine)
        kept = await finished_calls(tmp_path / "killed.db")
        # What a process asked and did not keep was under way when it died.
        assert len(set(mine) - kept) <= CONCURRENCY
        assert kept >= finished
        finished = kept
    resumed = json.loads(said)
    assert resumed["replayed"] > 0
    same = ("demos", "score")
    assert [resumed[name] for name in same] == [whole[name] for name in same]
    # Sequentially it takes `needed` calls; each process runs ahead for a few more.
    needed = whole["calls"] - whole["extra"]
    assert whole["extra"] <= CONCURRENCY
    assert len(finished) <= needed + (DEMOS + 1) * CONCURRENCY

    # Finished work is answered from the store, and nothing runs ahead.
    status, said = child.run("killed.db", 0)
    assert status == 0, said
    assert read_asked(tmp_path) == []
    again = json.loads(said)
    assert again["calls"] == again["replayed"] > 0
    assert [again[name] for name in same] == [whole[name] for name in same]
