"""Commands that only read a store."""

from pathlib import Path

import pytest

from dspex.worker.runs_command import BadArgumentError, open_journal


async def test_a_store_that_is_not_there_is_not_made_by_reading_it(
    tmp_path: Path,
) -> None:
    missing = tmp_path / "runs.db"
    with pytest.raises(BadArgumentError, match=r"runs\.db.*there is no such file"):
        async with open_journal(str(missing)):
            pass
    assert not missing.exists()
