"""docs/errors.md names every public error of dspex, in the words of its own class."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "errors.md").read_text()
PACKAGES = ("runtime", "supervisors", "providers", "modules", "testing", "worker")
# These have a table of their own, with what is retried.
MODEL_CALLS = ROOT / "providers" / "errors.py"


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    yield path, node


def lines() -> list[str]:
    """Give a line for each class that is below DspexError."""
    errors = {"DspexError"}
    known: list[str] = []
    found = list(classes())
    while len(known) < len(errors):
        known = sorted(errors)
        errors |= {
            node.name
            for _, node in found
            if errors & {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        }
    return [
        f"- `{node.name}` ({home(path, node.name)}): {said(node)}"
        for path, node in found
        if node.name in errors and node.name[0] != "_" and path != MODEL_CALLS
    ]


def home(path: Path, name: str) -> str:
    """Give the shortest module that the error can be imported from."""
    parts = ["dspex", *path.relative_to(ROOT).with_suffix("").parts]
    error = getattr(import_module(".".join(parts)), name)
    modules = (".".join(parts[: n + 1]) for n in range(len(parts)))
    return next(it for it in modules if has(it, name, error))


def has(module: str, name: str, value: object) -> bool:
    return getattr(import_module(module), name, None) is value


def said(node: ast.ClassDef) -> str:
    text = ast.get_docstring(node)
    assert text is not None, node.name
    return " ".join(text.partition("\n\n")[0].split())


LINES = lines()


@pytest.mark.parametrize("line", LINES)
def test_every_public_error_is_in_the_docs(line: str) -> None:
    assert line in DOCS.splitlines()


def test_the_docs_name_no_other_public_error() -> None:
    named = [line for line in DOCS.splitlines() if line.startswith("- `")]
    assert sorted(named) == sorted(LINES)
