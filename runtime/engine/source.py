"""Source text of a program: YAML or JSON, with the line of every value."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from dspex.runtime.engine.errors import Place, ProgramError

Path = tuple[str | int, ...]

_MOST_VALUES = 100_000


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
    builder = _Builder(file)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = None if root is None else builder.build(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, *((mark.line + 1, mark.column + 1) if mark else ()))
        raise ProgramError(f"not valid YAML: {error.problem}", place=place) from error
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise ProgramError(f"not valid YAML: {problem}", place=Place(file)) from error
    except RecursionError as error:
        raise ProgramError(
            "not valid YAML: it is nested too deeply", place=Place(file)
        ) from error
    return Source(file, data, builder.lines)


class _Builder:
    """Makes plain data of YAML's nodes; aliases count each time they are used."""

    def __init__(self, file: str) -> None:
        self.lines: dict[Path, tuple[int, int]] = {}
        self._file = file
        self._values = 0
        self._above: set[int] = set()

    def build(self, node: yaml.Node, path: Path) -> Any:  # Any: plain data of any shape
        self._values += 1
        if self._values > _MOST_VALUES:
            raise ProgramError(
                f"it has more than {_MOST_VALUES} values, aliases counted each time",
                place=self._place(node),
            )
        if id(node) in self._above:
            raise ProgramError("an alias contains itself", place=self._place(node))
        self.lines[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._above.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [
                    self.build(item, (*path, index))
                    for index, item in enumerate(node.value)
                ]
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return self._scalar(node)
        finally:
            self._above.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}  # Any: plain data of any shape
        for key_node, value_node in node.value:
            place = self._place(key_node)
            key = self._scalar(key_node)
            if not isinstance(key, str):
                raise ProgramError(
                    f"the key {str(key)[:80]!r} is not a string: quote it", place=place
                )
            if key in mapping:
                raise ProgramError(f"the key {key!r} is there twice", place=place)
            mapping[key] = self.build(value_node, (*path, key))
            self.lines[(*path, key)] = (place.line or 1, place.column or 1)
        return mapping

    def _scalar(self, node: yaml.Node) -> object:
        if node.tag == "tag:yaml.org,2002:merge":
            raise ProgramError(
                "merge keys (<<) are not supported: write the keys out",
                place=self._place(node),
            )
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except ValueError as error:
            raise ProgramError(
                f"{str(node.value)[:80]!r} is no value of its kind: {error}",
                place=self._place(node),
            ) from error
        finally:
            loader.dispose()

    def _place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        return Place(self._file, mark.line + 1, mark.column + 1)
