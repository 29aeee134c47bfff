"""Workers are killed or stopped at random moments; nothing is lost or paid twice."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.integration.dspex_command import two_at_a_time

ROOT = Path(__file__).parents[2]

RUNS: Final = 24
HARM: Final = {
    "killed": "--kills 3 --workers 1 --delay 0.8 --every 0.3 0.8",
    "one of two killed": (
        "--kills 3 --workers 2 --no-python --delay 0.8 --every 0.3 0.8"
    ),
    # Stopped for longer than its lease, then continued: its writes are refused.
    "stopped and continued": (
        "--kills 1 --workers 2 --stop 4 --lease 1 --no-python "
        "--delay 0.8 --every 0.3 0.8"
    ),
    "parts inside": "--inside --kills 5 --delay 0.7 --every 0.2 0.6",
}

Figures = dict[str, Any]  # Any: JSON


async def chaos(harm: str) -> "tuple[int, str]":
    done = await trio.run_process(
        [
            sys.executable, "-m", "benchmarks", "chaos",
            "--runs", str(RUNS), "--timeout", "150", *harm.split(),
        ],
        cwd=ROOT,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode()


@pytest.fixture(scope="module")
def finished() -> dict[str, tuple[int, str]]:
    """Do all the harm; most of the time a model is waited for."""
    works = {name: partial(chaos, harm) for name, harm in HARM.items()}
    return trio.run(two_at_a_time, works)


@pytest.mark.parametrize("harm", HARM)
def test_harmed_workers_lose_no_run_and_repeat_no_finished_call(
    harm: str, finished: dict[str, tuple[int, str]]
) -> None:
    figures = read(*finished[harm])
    assert figures["succeeded"] == RUNS
    assert figures["lost"] == 0
    assert figures["finished_calls_repeated"] == 0
    # At each kill no more calls are under way than the runs ask for at a time.
    assert figures["in_flight_at_kills"] <= figures["kills"] * 8 * 4


def test_each_kind_of_part_is_killed_inside_a_worker(
    finished: dict[str, tuple[int, str]],
) -> None:
    figures = read(*finished["parts inside"])
    assert {"writer", "actor", "dspy", "runs"} <= set(figures["killed"])


def read(status: int, out: str) -> Figures:
    assert status == 0, out
    figures: Figures = next(
        json.loads(it) for it in out.splitlines() if '"kills"' in it
    )
    return figures
