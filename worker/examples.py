"""The example programs that travel with the package."""

from pathlib import Path

import dspex
from dspex.runtime import DspexError


class ExampleNotFoundError(DspexError):
    """The files of an example are not where the package should have them."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the example {name!r} is not in this installation: install dspex again"
        )
        self.name = name


def find_example(name: str) -> Path:
    """Give the folder of an example: in the wheel, or in the checkout.

    Raises:
        ExampleNotFoundError: it is in neither.
    """
    package = Path(dspex.__file__).resolve().parent
    for folder in (package / "examples", package.parent.parent / "examples"):
        if (folder / name).is_dir():
            return folder / name
    raise ExampleNotFoundError(name)
