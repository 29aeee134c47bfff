"""A second environment: the wheel installed by pip, and what one extra needs.

Nothing is fetched: the distributions that the extra names, and what those need, are
linked from this environment. What is not among them cannot be imported there.
"""

import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Environment:
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def pip(self) -> list[str]:
        """Begin a command of pip for it."""
        if find_spec("pip") is None:
            return [str(self.python), "-m", "pip"]
        return [sys.executable, "-m", "pip", "--python", str(self.python)]

    def run(
        self, *arguments: str | Path, cwd: Path, timeout: float = 120.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run one of its programs, without this process's environment variables."""
        program, *rest = map(str, arguments)
        return subprocess.run(
            [str(self.folder / "bin" / program), *rest],
            cwd=cwd,
            env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )


def make_environment(folder: Path, wheel: Path, *, extra: str) -> Environment:
    """Install a wheel with one of its extras into a new environment."""
    # An environment that uv has made has no pip.
    has_pip = find_spec("pip") is not None
    venv.create(folder, with_pip=not has_pip)
    environment = Environment(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needed_by("dspex", extra=extra) - {"dspex"}:
        _link(name, site)
    arguments = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*environment.pip, *arguments], check=True)
    return environment


def needed_by(name: str, *, extra: str = "") -> set[str]:
    """Give the distributions that one needs to work, itself included."""
    found: set[str] = set()
    wanted = [(name, extra)]
    while wanted:
        name, extra = wanted.pop()
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is not None and not marker.evaluate({"extra": extra}):
                continue
            try:
                distribution(requirement.name)
            except PackageNotFoundError:
                continue  # pip would say so: `pip check` is part of the tests
            extras = requirement.extras or {""}
            if requirement.name.lower() not in found:
                wanted += [(requirement.name, it) for it in extras]
                found.add(requirement.name.lower())
    return found


def _link(name: str, site: Path) -> None:
    installed = distribution(name)
    for file in installed.files or ():
        top = file.parts[0]
        if top not in ("..", "__pycache__") and not (site / top).exists():
            (site / top).symlink_to(Path(str(installed.locate_file(top))))
