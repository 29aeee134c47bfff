"""Every example is named by a test, or by an example that is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(
    path.relative_to(ROOT / "examples")
    for path in (ROOT / "examples").rglob("*")
    if path.suffix in (".py", ".yaml")
    # Tests are collected by pytest itself.
    and path.name != "__init__.py"
    and not path.name.startswith("test_")
)
# Parts of an example are named by the example.
TEXTS = {
    path: path.read_text()
    for folder in ("tests", "examples")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".yaml") and path != Path(__file__)
}


def is_named(example: Path, text: str) -> bool:
    folder = example.parent.name
    as_module = ".".join(("examples", *example.with_suffix("").parts))
    is_named_here = re.search(rf"\b{example.stem}\b", text) is not None
    return as_module in text or (is_named_here and (not folder or folder in text))


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_g1_every_example_is_run_by_a_test(example: Path) -> None:
    others = {path: text for path, text in TEXTS.items() if path.name != example.name}
    assert any(is_named(example, text) for text in others.values())
