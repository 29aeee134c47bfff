from pathlib import Path

import pytest

from dspex.providers import errors
from dspex.providers.errors import ProviderError

DOCS = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def subclasses(kind: type[ProviderError]) -> list[type[ProviderError]]:
    below = [it for it in kind.__subclasses__() if it.__module__ == errors.__name__]
    return [kind, *(one for it in below for one in subclasses(it))]


@pytest.mark.parametrize("kind", subclasses(ProviderError))
def test_every_error_is_in_the_docs_and_in_the_tree(kind: type[ProviderError]) -> None:
    (row,) = [line for line in DOCS.splitlines() if f"`{kind.__name__}` |" in line]
    retryable, remedy = [cell.strip() for cell in row.split("|")[3:5]]
    assert retryable == ("yes" if kind.retryable else "no")
    assert remedy == kind.remedy
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__.split()


def test_the_docs_name_no_other_error() -> None:
    rows = [line for line in DOCS.splitlines() if "Error` |" in line]
    assert len(rows) == len(subclasses(ProviderError))
