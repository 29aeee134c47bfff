"""The environment of triotp, a peer that needs a newer Python than dspex does.

`python -m benchmarks._triotp` (part of `make bench`) makes it inside our own, from the
newest Python from 3.12 on that is found; triotp's own releases ask for 3.13.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(sys.prefix, "triotp")


def find() -> str | None:
    """A Python that has triotp: our own, or that of its environment."""
    for python in (sys.executable, str(ENVIRONMENT / "bin" / "python")):
        if _runs(python, "import triotp"):
            return python
    return None


def make() -> bool:
    """Make the environment; whether triotp is there now."""
    pyenv = sorted(Path.home().glob(".pyenv/versions/*/bin/python"), reverse=True)
    known = [shutil.which(f"python3.{minor}") for minor in (14, 13, 12)]
    for python in (*known, *map(str, pyenv)):
        if python and _runs(python, "import sys; assert sys.version_info >= (3, 12)"):
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            subprocess.run([python, "-m", "venv", str(ENVIRONMENT)], check=True)
            pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "-q"]
            subprocess.run([*pip, "triotp"], check=False)
            return find() is not None
    return False


def _runs(python: str, statement: str) -> bool:
    if not Path(python).exists():
        return False
    done = subprocess.run([python, "-c", statement], capture_output=True, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    if find() is None and not make():
        print("no Python from 3.12 on, or no triotp: left out", file=sys.stderr)
