"""docs/scenarios.md names a test that is there for each acceptance scenario."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "scenarios.md").read_text()
SIZES = {"A": 11, "B": 8, "C": 9, "D": 6, "E": 2, "F": 3, "G": 1}
IDS = [f"{group}{n}" for group, size in SIZES.items() for n in range(1, size + 1)]
ROWS = {
    row[0]: re.findall(r"`([\w/]+\.py)::(\w+)`", row[1])
    for row in re.findall(r"^\| ([A-G]\d+) \|(.+)$", TABLE, re.MULTILINE)
}


def test_the_table_has_the_forty_scenarios() -> None:
    assert list(ROWS) == IDS
    assert len(IDS) == 40


@pytest.mark.parametrize("scenario", IDS)
def test_each_scenario_names_tests_that_exist_and_carry_its_id(scenario: str) -> None:
    assert ROWS[scenario]
    for file, name in ROWS[scenario]:
        assert name.lower().startswith(f"test_{scenario.lower()}_")
        source = (ROOT / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), name
