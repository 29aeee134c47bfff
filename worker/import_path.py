"""importable_folders: where this process imports the user's own modules from."""

import site
import sys
import sysconfig
from pathlib import Path
from typing import Final

_INSTALLED: Final = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")


def importable_folders() -> list[Path]:
    """Give the folders of `sys.path` that are not the interpreter's, in order.

    The script's folder or the working directory, PYTHONPATH, what was put there by
    hand: a process that hosts dspy finds there what this one does. What is installed
    it finds by itself, under another interpreter its own.
    """
    installed = [Path(sysconfig.get_path(name)) for name in _INSTALLED]
    installed += [
        Path(it) for it in (*site.getsitepackages(), site.getusersitepackages())
    ]
    found = [Path.cwd() if not it else Path(it) for it in sys.path]
    own = [
        it.absolute()
        for it in found
        if it.is_dir() and not any(it.is_relative_to(folder) for folder in installed)
    ]
    return list(dict.fromkeys(own))
