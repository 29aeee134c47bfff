"""The examples of docs/testing.md, run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from dspex.testing import FaultPlan
from dspex.testing.plugin import InjectFixture

DOCS = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"```python\n(.+?)```", DOCS, re.DOTALL)
PLANS = re.findall(r"```yaml\n(.+?)```", DOCS, re.DOTALL)


def names_of(block: str) -> dict[str, Any]:  # Any: whatever it defines
    names: dict[str, Any] = {}
    exec(compile(block, "docs/testing.md", "exec"), names)  # our own page
    return names


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_runs(block: str) -> None:
    assert names_of(block)


def test_the_plan_is_the_same_in_yaml() -> None:
    yaml = PLANS[0]
    assert names_of(BLOCKS[0])["plan"] == FaultPlan.from_yaml(yaml)


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_can_be_read(plan: str) -> None:
    assert FaultPlan.from_yaml(plan).faults


async def test_the_test_of_a_supervisor_passes(
    faults: InjectFixture, autojump_clock: trio.testing.MockClock
) -> None:
    await names_of(BLOCKS[-1])["test_a_crash_is_restarted"](faults)
