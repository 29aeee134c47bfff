"""What `--app` names is loaded again with what it imports, or not at all."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.testing import ScriptedLM
from dspex.worker.loading import Loader

APP = """
from dspex import App
from own_part import PROGRAM

app = App(PROGRAM)
"""
PART = """
import tabnanny
from dspex import Program, Step

step = Step(module="Predict", signature="x -> {output}")
PROGRAM = Program(name="p", steps={{"a": step}})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_app.py").write_text(APP)
    (tmp_path / "own_part.py").write_text(PART.format(output="y"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def signature(loader: Loader) -> str:
    with loader.load_anew() as app:
        (program,) = app.read_programs()
    return program.steps["a"].signature


def test_what_the_app_imports_of_its_own_is_loaded_again(folder: Path) -> None:
    loader = Loader("own_app:app", make_lm=lambda: ScriptedLM([]))
    loader.load()
    library = sys.modules["tabnanny"]
    (folder / "own_part.py").write_text(PART.format(output="another"))
    assert signature(loader) == "x -> another"
    assert sys.modules["tabnanny"] is library


@pytest.mark.parametrize("problem", ["1 / 0", "PROGRAM = 1", "import own_nothing"])
def test_a_load_that_fails_leaves_the_modules_as_they_were(
    folder: Path, problem: str
) -> None:
    loader = Loader("own_app:app", make_lm=lambda: ScriptedLM([]))
    loader.load()
    before = dict(sys.modules)
    (folder / "own_more.py").touch()
    (folder / "own_part.py").write_text(f"import own_more\n{problem}\n")
    with (
        pytest.raises(Exception, match=r"zero|'name'|int|own_nothing"),
        loader.load_anew() as app,
    ):
        app.read_programs()
    assert sys.modules == before
    (folder / "own_part.py").write_text(PART.format(output="mended_now"))
    assert signature(loader) == "x -> mended_now"
