"""The example of optimizing runs and shows its gain."""

import pytest

from examples.optimize import gain


async def test_the_example_gains(capsys: pytest.CaptureFixture[str]) -> None:
    await gain.on_scripted_model()
    out = capsys.readouterr().out
    assert "before: 36.7" in out
    assert "better by 63.3 points" in out
