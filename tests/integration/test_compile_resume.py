"""A compile that is killed at every acceptance: it goes on, and repeats nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from dspex.runtime.engine.journaled import read_stored
from dspex.worker.runs_command import open_journal

CHILD = Path(__file__).with_name("compile_child.py")
DEMOS, CONCURRENCY, ROUNDS = 4, 4, 2


def run_child(folder: Path, store: str, kill_at: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, CHILD, folder / store, folder / "asked", str(kill_at)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout or done.stderr


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
    tmp_path: Path,
) -> None:
    whole = json.loads(run_child(tmp_path, "whole.db", 0)[1])
    once = read_asked(tmp_path)
    assert whole["replayed"] == 0
    assert whole["calls"] <= len(once) == len(set(once))

    finished: set[str] = set()
    for kill_at in range(1, DEMOS + 1):
        status, said = run_child(tmp_path, "killed.db", kill_at)
        assert status == -signal.SIGKILL, said
        assert finished.isdisjoint(read_asked(tmp_path))
        kept = await finished_calls(tmp_path / "killed.db")
        assert kept
        assert kept >= finished
        finished = kept
    status, said = run_child(tmp_path, "killed.db", 0)
    assert status == 0, said
    assert finished.isdisjoint(read_asked(tmp_path))
    resumed = json.loads(said)
    # Kept calls of examples that ran ahead for nothing need not be asked for again.
    assert 0 < resumed["replayed"] <= len(finished)
    same = ("demos", "score")
    assert [resumed[name] for name in same] == [whole[name] for name in same]

    # Finished work is answered from the store; what runs ahead may ask for more.
    finished = await finished_calls(tmp_path / "killed.db")
    status, said = run_child(tmp_path, "killed.db", 0)
    assert status == 0, said
    asked = read_asked(tmp_path)
    assert finished.isdisjoint(asked)
    # Open: 13 and 14 were seen where running ahead should ask for 8 at the most.
    assert len(asked) <= CONCURRENCY * ROUNDS * 2
    assert json.loads(said)["demos"] == whole["demos"]
