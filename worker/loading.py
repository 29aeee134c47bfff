"""Loading: the app that a command line names."""

import importlib
import sys
from collections.abc import Callable
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
        super().__init__(
            f"--app {text!r}: {problem}; give module:attribute (an App, a Program, or "
            "a function that makes one) or a directory of program files"
        )
        self.text = text


class Loader:
    """Reads an app by its name, again each time: `load` after a change gives the new.

    `make_lm` gives the model where the app has none of its own; one for all loads.
    """

    def __init__(self, text: str, *, make_lm: Callable[[], LM | None]) -> None:
        self._text = text
        self._make_lm = make_lm
        self._module: ModuleType | None = None

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
            if self._module is None:
                self._module = importlib.import_module(name)
            else:
                self._module = importlib.reload(self._module)
        except ModuleNotFoundError as error:
            raise AppNotFoundError(self._text, f"no module {error.name!r}") from error
        try:
            found: object = getattr(self._module, attribute)
        except AttributeError:
            raise AppNotFoundError(
                self._text, f"module {name!r} has no {attribute!r}"
            ) from None
        return found


def _as_app(text: str, found: object) -> App:
    if not isinstance(found, App | Program) and callable(found):
        found = cast("Callable[[], object]", found)()
    if isinstance(found, Program):
        return App(found)
    if isinstance(found, App):
        return found
    raise AppNotFoundError(text, f"it is a {type(found).__name__}")
