"""Where the user's own modules are imported from."""

import sys
import sysconfig
from pathlib import Path

import pytest

from dspex.worker.import_path import importable_folders


def test_the_folders_of_the_user_are_told_in_order_and_what_is_installed_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    code = str(tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "path",
        [
            code,
            "",
            code,
            str(tmp_path / "gone"),
            sysconfig.get_path("scripts"),
            sysconfig.get_path("stdlib"),
            sysconfig.get_path("stdlib") + "/lib-dynload",
            sysconfig.get_path("purelib"),
        ],
    )
    assert importable_folders() == [tmp_path / "code", tmp_path]
