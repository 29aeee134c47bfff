"""Loading: the app that a command line names."""

import importlib
import sys
import sysconfig
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final, cast

from dspex.providers.lm import LM
from dspex.runtime import DspexError
from dspex.runtime.engine import Program
from dspex.worker.application import App

_SUFFIXES: Final = (".yaml", ".yml", ".json")


class AppNotFoundError(DspexError):
    """`--app` names nothing that can be served."""

    def __init__(self, text: str, problem: str) -> None:
        what = f"--app {text!r}: {problem}" if text else f"--app {problem}"
        super().__init__(
            f"{what}; give module:attribute (an App, a Program, or a function that "
            "makes one) or a directory of program files"
        )
        self.text = text


class Loader:
    """Reads an app by its name, again each time: `load` after a change gives the new.

    `make_lm` gives the model where the app has none of its own; one for all loads.
    """

    def __init__(self, text: str, *, make_lm: Callable[[], LM | None]) -> None:
        self._text = text
        self._make_lm = make_lm
        # What was there before the app is not its own.
        self._foreign = frozenset(sys.modules)
        self._folder: Path | None = None

    @contextmanager
    def load_anew(self) -> Generator[App]:
        """Give the app as it is now, what it imports of its own code included.

        If that fails, or the block does, the modules are those from before.

        Raises what `load` raises, or what the app's code does.
        """
        before = self._own_modules()
        for name in before:
            del sys.modules[name]
        importlib.invalidate_caches()
        try:
            yield self.load()
        except BaseException:
            for name in self._own_modules():
                del sys.modules[name]
            sys.modules.update(before)
            raise

    def _own_modules(self) -> dict[str, ModuleType]:
        """Give the modules of the app: from its folder, or the working directory."""
        folders = [it for it in (self._folder, Path.cwd()) if it is not None]
        return {
            name: module
            for name, module in list(sys.modules.items())
            if name not in self._foreign and _is_below(folders, module)
        }

    def load(self) -> App:
        """Give the app.

        Raises:
            AppNotFoundError: there is no such directory, module or attribute.
            ProgramError: a program file is not a program.
        """
        app = self._read()
        if app.lm is None:
            return app.with_lm(self._make_lm())
        return app

    def _read(self) -> App:
        if not self._text:
            raise AppNotFoundError("", "(or DSPEX_APP) is needed and was not given")
        folder = Path(self._text)
        if folder.is_dir():
            files = sorted(it for it in folder.iterdir() if it.suffix in _SUFFIXES)
            if not files:
                raise AppNotFoundError(
                    self._text, f"the directory has no file {', '.join(_SUFFIXES)}"
                )
            return App(*files)
        name, colon, attribute = self._text.partition(":")
        if not colon or not attribute:
            problem = "there is no such directory" if "/" in self._text else "no module"
            raise AppNotFoundError(self._text, problem)
        return _as_app(self._text, self._attribute(name, attribute))

    def _attribute(self, name: str, attribute: str) -> object:
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise AppNotFoundError(self._text, f"no module {error.name!r}") from error
        try:
            found: object = getattr(module, attribute)
        except AttributeError:
            raise AppNotFoundError(
                self._text, f"module {name!r} has no {attribute!r}"
            ) from None
        if module.__file__ is not None:
            # Of a package the folder that it is in.
            self._folder = Path(module.__file__).resolve().parents[name.count(".")]
        return found


def _is_below(folders: list[Path], module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:  # of the interpreter's own, or a namespace
        paths = list(getattr(module, "__path__", ()))
        file = paths[0] if paths else None
    if not isinstance(file, str) or module.__name__.partition(".")[0] == "dspex":
        return False
    where = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(where.parts):
        return False
    if where.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve()):
        return False
    return any(where.is_relative_to(folder) for folder in folders)


def _as_app(text: str, found: object) -> App:
    if not isinstance(found, App | Program) and callable(found):
        found = cast("Callable[[], object]", found)()
    if isinstance(found, Program):
        return App(found)
    if isinstance(found, App):
        return found
    raise AppNotFoundError(text, f"it is a {type(found).__name__}")
