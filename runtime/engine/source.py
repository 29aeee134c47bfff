"""Source text of a program: YAML or JSON, with the line of every value."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from dspex.runtime.engine.errors import Place, ProgramError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Plain data, and where each part of it is written."""

    file: str
    data: Any  # Any: whatever the text says; the program's model checks it
    _lines: dict[Path, tuple[int, int]] = field(
        default_factory=dict[Path, tuple[int, int]]
    )

    def place(self, path: Sequence[str | int]) -> Place:
        """Give the place of a value, or of its nearest ancestor that has one."""
        for length in range(len(path), -1, -1):
            known = self._lines.get(tuple(path[:length]))
            if known is not None:
                return Place(self.file, *known)
        return Place(self.file)


def parse_source(text: str, *, file: str) -> Source:
    """Parse YAML, of which JSON is a part, into plain data with places.

    Raises:
        ProgramError: the text does not parse; names line and column.
    """
    lines: dict[Path, tuple[int, int]] = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = None if root is None else _build(root, (), lines, file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, *((mark.line + 1, mark.column + 1) if mark else ()))
        raise ProgramError(f"not valid YAML: {error.problem}", place=place) from error
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise ProgramError(f"not valid YAML: {problem}", place=Place(file)) from error
    return Source(file, data, lines)


def _build(
    node: yaml.Node, path: Path, lines: dict[Path, tuple[int, int]], file: str
) -> Any:  # Any: plain data of any shape
    lines[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(item, (*path, index), lines, file)
            for index, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Hashable, Any] = {}  # Any: plain data of any shape
        for key_node, value_node in node.value:
            key = _scalar(key_node)
            mark = key_node.start_mark
            place = Place(file, mark.line + 1, mark.column + 1)
            if not isinstance(key, str):
                raise ProgramError(
                    f"the key {key!r} is not a string: quote it", place=place
                )
            if key in mapping:
                raise ProgramError(f"the key {key!r} is there twice", place=place)
            mapping[key] = _build(value_node, (*path, key), lines, file)
            lines[(*path, key)] = (mark.line + 1, mark.column + 1)
        return mapping
    return _scalar(node)


def _scalar(node: yaml.Node) -> object:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()
