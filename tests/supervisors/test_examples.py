"""The kernel's examples run as they are and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("module", "lines"),
    [
        (
            "examples.counter",
            [
                "10 + 2 = 12",
                "refused: cannot divide by -1",
                "still 12",
                "crashed: call to 'counter' failed: it exited (ZeroDivisionError",
                "restarted with 10",
            ],
        ),
        (
            "examples.supervision_tree",
            [
                "    ├── cache [running]",
                "    └── pool (Pool#",
                "        └── worker-1 [running]",
                "work: HELLO",
                "crash: call to 'cache' failed: it exited (ValueError",
                "worker-1 ends: shutdown\nworker-0 ends: shutdown\nwork again: WORLD",
                "cache [running, restarts=1]",
                "stopped\nworker-1 ends: shutdown\nworker-0 ends: shutdown",
            ],
        ),
        (
            "examples.pubsub",
            [
                "news reached 2",
                "sport reached 1",
                "news reached 1",
                "anna heard ['rain', '2:1', 'sun']",
            ],
        ),
    ],
)
def test_example_prints_what_it_promises(module: str, lines: list[str]) -> None:
    out = run(module)
    for line in lines:
        assert line in out, f"{line!r} is not in\n{out}"
