"""The example of optimizing runs and shows its gain."""

import pytest

from examples.optimize import gain


async def test_the_example_gains(capsys: pytest.CaptureFixture[str]) -> None:
    await gain.main()
    out = capsys.readouterr().out
    assert "before: 33.3" in out
    assert "better by 66.7 points" in out
