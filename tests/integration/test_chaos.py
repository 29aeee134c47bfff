"""Workers are killed or stopped at random moments; nothing is lost or paid twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "harm",
    [
        ("--kills", "3", "--workers", "1"),
        ("--kills", "3", "--workers", "2", "--no-python"),
        # Stopped for longer than its lease, then continued: its writes are refused.
        (
            *("--kills", "1", "--workers", "2", "--stop", "4", "--lease", "1"),
            "--no-python",
        ),
    ],
    ids=["killed", "one of two killed", "stopped and continued"],
)
async def test_harmed_workers_lose_no_run_and_repeat_no_finished_call(
    harm: tuple[str, ...],
) -> None:
    arguments = [
        "--runs",
        "24",
        "--delay",
        "0.8",
        "--every",
        "0.3",
        "0.8",
        "--timeout",
        "150",
    ]
    done = await trio.run_process(
        [sys.executable, "-m", "benchmarks", "chaos", *arguments, *harm],
        cwd=ROOT,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    figures = next(
        json.loads(it) for it in done.stdout.splitlines() if b'"kills"' in it
    )
    assert figures["succeeded"] == 24
    assert figures["lost"] == 0
    assert figures["finished_calls_repeated"] == 0
    # At each kill no more calls are under way than the runs ask for at a time.
    assert figures["in_flight_at_kills"] <= figures["kills"] * 8 * 4


async def test_parts_killed_inside_a_worker_lose_no_run_and_repeat_no_call() -> None:
    arguments = [
        "--inside",
        "--delay",
        "0.7",
        "--runs",
        "24",
        "--kills",
        "5",
        "--every",
        "0.2",
        "0.6",
    ]
    done = await trio.run_process(
        [sys.executable, "-m", "benchmarks", "chaos", *arguments, "--timeout", "150"],
        cwd=ROOT,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    figures = next(
        json.loads(it) for it in done.stdout.splitlines() if b'"kills"' in it
    )
    assert figures["succeeded"] == 24
    assert figures["finished_calls_repeated"] == 0
    assert figures["in_flight_at_kills"] <= figures["kills"] * 8 * 4
    assert {"writer", "actor", "dspy", "runs"} <= set(figures["killed"])
