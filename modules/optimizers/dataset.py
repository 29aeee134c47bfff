"""Data sets: examples from files and rows, split and checked."""

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

from dspex.modules.errors import shorten
from dspex.modules.optimizers.errors import DatasetError
from dspex.modules.optimizers.example import Example
from dspex.modules.plain import is_object

# Any: values of whatever type the data has.
RowLike: TypeAlias = Mapping[str, Any]


class Dataset(Sequence[Example]):
    """Examples in order, every one with the same inputs.

    Build one by `from_rows`, or `load` for a JSONL or CSV file.
    """

    def __init__(self, examples: Iterable[Example], *, name: str = "data set") -> None:
        self.name = name
        self._examples = tuple(examples)

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[RowLike],
        *,
        inputs: Sequence[str],
        name: str = "data set",
    ) -> "Dataset":
        """Build one from mappings, of which `inputs` are the inputs.

        Raises:
            DatasetError: a row is no mapping or lacks an input: says which.
        """
        examples = [
            _example(f"{name}, row {number}", row, inputs)
            for number, row in enumerate(rows, start=1)
        ]
        return cls(examples, name=name)

    @classmethod
    def load(cls, path: str | Path, *, inputs: Sequence[str]) -> "Dataset":
        """Read a `.jsonl` file (an object a line) or a `.csv` file (with a header).

        Empty lines are skipped. Values of a CSV file are texts.

        Raises:
            DatasetError: it cannot be read, or a row is bad: says which line.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise DatasetError(
                str(path), f"cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise DatasetError(
                str(path), f"is not UTF-8 at byte {error.start}"
            ) from error
        readers = {".jsonl": _read_jsonl, ".csv": _read_csv}
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise DatasetError(str(path), "is neither a .jsonl nor a .csv file")
        examples = [
            _example(place, row, inputs) for place, row in reader(str(path), text)
        ]
        return cls(examples, name=path.name)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "Example | Dataset":
        if isinstance(index, slice):
            return Dataset(self._examples[index], name=self.name)
        return self._examples[index]

    def __len__(self) -> int:
        return len(self._examples)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} examples)"

    def split(
        self, *parts: float, seed: int, balance: str | None = None
    ) -> tuple["Dataset", ...]:
        """Shuffle by the seed and cut into parts: shares of 1, or numbers of examples.

        What is left over is not used. With `balance`, the name of a label, each part
        has the label's values in the data set's proportions, as far as whole examples
        allow. Equal examples never end in two parts: of those only one is used.

        Raises:
            DatasetError: the parts are more than there is.
        """
        pool = list(self.deduplicated())
        random.Random(seed).shuffle(pool)
        if balance is not None:
            pool = _interleaved(pool, balance, self.name)
        sizes = [int(part) if part >= 1 else round(part * len(pool)) for part in parts]
        if any(size < 0 for size in sizes) or sum(sizes) > len(pool):
            raise DatasetError(
                self.name,
                f"cannot give parts of {sizes}: there are {len(pool)} different "
                "examples",
            )
        found: list[Dataset] = []
        start = 0
        for size in sizes:
            found.append(Dataset(pool[start : start + size], name=self.name))
            start += size
        return tuple(found)

    def deduplicated(self) -> "Dataset":
        """Give the data set without examples that are equal to an earlier one."""
        found: dict[str, Example] = {}
        for example in self._examples:
            found.setdefault(example_key(example), example)
        return Dataset(found.values(), name=self.name)


def example_key(example: Mapping[str, Any]) -> str:  # Any: as above
    """Give a text that is equal for equal examples."""
    return repr(sorted((name, repr(value)) for name, value in example.items()))


def refuse_leakage(what: str, train: Sequence[Example], dev: Sequence[Example]) -> None:
    """Make sure that nothing is trained on what is then used to measure.

    Raises:
        DatasetError: an example of `dev` has the inputs of one of `train`.
    """
    seen = {example_key(example.inputs()) for example in train}
    for number, example in enumerate(dev, start=1):
        if example_key(example.inputs()) in seen:
            raise DatasetError(
                f"{what}, example {number}",
                f"{example!r} is in the training set too: split the data",
            )


def _example(place: str, row: object, inputs: Sequence[str]) -> Example:
    if not isinstance(row, Mapping):
        raise DatasetError(place, f"is no object of named values: {shorten(row)}")
    values: Mapping[str, Any] = row  # pyright: ignore[reportUnknownVariableType]
    missing = [name for name in inputs if name not in values]
    if missing:
        raise DatasetError(
            place,
            f"has no {missing[0]!r}, which is an input; it has "
            f"{', '.join(map(str, values)) or 'nothing'}",
        )
    return Example(values).with_inputs(*inputs)


def _read_jsonl(path: str, text: str) -> Iterable[tuple[str, object]]:
    # Not splitlines: JSON texts may hold U+2028 and the like.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}:{number}", f"is no JSON: {error}") from None
        if not is_object(row):
            raise DatasetError(
                f"{path}:{number}", f"is no object of named values: {shorten(row)}"
            )
        yield f"{path}:{number}", row


def _read_csv(path: str, text: str) -> Iterable[tuple[str, object]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise DatasetError(path, "is empty: a CSV file begins with a header")
        if len(set(header)) < len(header):
            raise DatasetError(f"{path}:1", "the header names a column twice")
        for row in reader:
            if not row:
                continue
            place = f"{path}:{reader.line_num}"
            if len(row) != len(header):
                raise DatasetError(
                    place, f"has {len(row)} values, and the header {len(header)}"
                )
            yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DatasetError(f"{path}:{reader.line_num}", f"is no CSV: {error}") from None


def _interleaved(pool: list[Example], label: str, name: str) -> list[Example]:
    """Order examples so that every stretch of them has the labels' proportions."""
    groups: defaultdict[str, list[Example]] = defaultdict(list)
    for example in pool:
        if label not in example:
            raise DatasetError(name, f"{example!r} has no {label!r} to balance by")
        groups[repr(example[label])].append(example)
    places = [
        ((index + 0.5) / len(group), order, example)
        for order, group in enumerate(groups.values())
        for index, example in enumerate(group)
    ]
    return [example for *_, example in sorted(places, key=lambda place: place[:2])]
