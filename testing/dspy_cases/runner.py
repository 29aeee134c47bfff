"""Running files of cases, whatever they are about."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import trio

from dspex.modules.plain import is_list, is_object
from dspex.testing.dspy_cases.bootstrap import run_bootstrap_case
from dspex.testing.dspy_cases.errors import CaseFileError
from dspex.testing.dspy_cases.outcome import Difference, Ran, Verdict, judge
from dspex.testing.dspy_cases.predict import run_predict_case
from dspex.testing.dspy_cases.react import run_react_case
from dspex.testing.dspy_cases.signature import run_signature_file

# Any: JSON.
RunCase = Callable[[Mapping[str, Any]], Awaitable[Ran]]

KINDS: Final[Mapping[str, RunCase]] = {
    "bootstrap": run_bootstrap_case,
    "predict": run_predict_case,
    "react": run_react_case,
}
_DEFAULT_DEVIATIONS: Final = "deviations.json"


def load_deviations(path: str | None = None) -> dict[str, str]:
    """Read a list of deviations: `{id, tag or "forgiven:NOTE": reason}`.

    Raises:
        CaseFileError: it is not one.
    """
    if path is None:
        found = files("dspex.testing.dspy_cases") / _DEFAULT_DEVIATIONS
        path, text = _DEFAULT_DEVIATIONS, found.read_text(encoding="utf-8")
    else:
        text = _read(Path(path))
    data = _parse(path, text)
    if not is_object(data) or not all(isinstance(r, str) and r for r in data.values()):
        raise CaseFileError(path, "deviations are an object of reasons")
    return data


def run_files(paths: Sequence[str], deviations: Mapping[str, str]) -> list[Verdict]:
    """Run every case of the files, and of the JSON files in the folders.

    Raises:
        CaseFileError: a file that has no cases of a known kind.
    """
    verdicts: list[Verdict] = []
    for path in _find(paths):
        data = _parse(str(path), _read(path))
        if not is_object(data) or "kind" not in data:
            raise CaseFileError(str(path), 'has no "kind": it is no file of cases')
        verdicts.extend(judge(ran, deviations) for ran in _run(str(path), data))
    return verdicts


def _run(path: str, data: Mapping[str, Any]) -> Iterable[Ran]:  # Any: JSON
    kind = data["kind"]
    if kind == "signature":
        return list(run_signature_file(data))
    cases: object = data.get("cases")
    if kind not in KINDS or not is_list(cases):
        known = ", ".join(["signature", *KINDS])
        raise CaseFileError(
            path, f"cases of kind {kind!r} are unknown; there are {known}"
        )
    return trio.run(_run_cases, KINDS[kind], cases)


async def _run_cases(
    run: RunCase, cases: Sequence[Mapping[str, Any]]
) -> list[Ran]:  # Any: JSON
    return [await _run_case(run, case) for case in cases]


async def _run_case(run: RunCase, case: Mapping[str, Any]) -> Ran:  # Any: JSON
    try:
        return await run(case)
    # The edge of a case: what dspex cannot even build is a difference, and the
    # other cases still run.
    except Exception as error:  # noqa: BLE001
        problem = Difference(f"cannot be run: {type(error).__name__}: {error}")
        return Ran(str(case.get("id")), tuple(case.get("tags", ())), problem)


def _find(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        found.extend(sorted(path.glob("*.json")) if path.is_dir() else [path])
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CaseFileError(str(path), f"cannot be read: {error.strerror}") from None


def _parse(path: str, text: str) -> object:
    try:
        found: object = json.loads(text)
    except ValueError as error:
        raise CaseFileError(path, f"is no JSON: {error}") from None
    return found
