"""Replay Erlang/OTP's supervision traces against dspex, and tell every difference.

`python -m dspex.testing.otp PATH...` takes trace files and folders of them (the
format is described beside the traces) and ends with
`otp: N passed, M failed, K skipped`; its status is 1 if any failed.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from dspex.testing.otp_order import untangled
from dspex.testing.otp_replay import replay
from dspex.testing.otp_terms import Json


@dataclass(frozen=True, slots=True)
class Deviation:
    """Where dspex does not follow OTP, only in scenarios tagged `otp_quirk`."""

    name: str
    reason: str
    shows: Callable[[Json], bool]


def _has_bogus_entry(step: Json) -> bool:
    crash = {"raised": "function_clause"}  # of the supervisor that stumbles on it
    return _is_bogus(step["tree"]) or any(
        event[0] == "exit" and event[2] == crash for event in step["events"]
    )


def _is_bogus(tree: Json) -> bool:
    entries: list[Json] = tree or []
    return any(
        entry[:2] == [None, "undefined"] or (len(entry) > 2 and _is_bogus(entry[2]))
        for entry in entries
    )


# The only places where dspex means to differ.
DEVIATIONS = (
    Deviation(
        "restart_ignored_under_simple_one_for_one",
        "OTP keeps an entry with pid `undefined` when a dynamic child's restart "
        "answers ignore, and crashes on it at shutdown; dspex drops the child, as "
        "start_child does",
        _has_bogus_entry,
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file; `difference` says where it first differs from OTP."""

    status: Literal["passed", "failed", "skipped"]
    difference: str = ""
    ours: Json = None


def check(trace_file: Json) -> Outcome:
    """Replay the scenario of one trace file and compare."""
    scenario = trace_file["scenario"]
    expected = trace_file["trace"]["steps"]
    try:
        replayed = replay(scenario)
    except Exception as error:  # noqa: BLE001 - one bad scenario must not hide the rest
        return Outcome("failed", f"replay raised {type(error).__name__}: {error}")
    ours = replayed.steps
    steps: list[Json] = [{"op": "start"}, *scenario["steps"], {"op": "final_stop"}]
    for number, (step, theirs, mine) in enumerate(
        zip(steps, expected, ours, strict=True)
    ):
        difference = _difference(
            theirs,
            mine,
            unordered=bool(step.get("unordered")),
            simple=replayed.simple,
        )
        if difference is None:
            continue
        text = f"step {number} ({_short(step)}): {difference}"
        if "otp_quirk" in scenario.get("tags", ()):
            for deviation in DEVIATIONS:
                if deviation.shows(theirs):
                    return Outcome("skipped", f"{text}\n    {deviation.reason}", ours)
        return Outcome("failed", text, ours)
    return Outcome("passed", ours=ours)


def _difference(
    theirs: Json, mine: Json, *, unordered: bool, simple: set[str]
) -> str | None:
    for field in ("op", "result", "events", "tree", "orphans"):
        wanted, got = theirs.get(field), mine.get(field)
        if wanted == got:
            continue
        if field == "events":
            wanted, got = untangled(wanted, simple), untangled(got, simple)
            if wanted == got:
                continue
            if unordered and _bag(wanted) == _bag(got):
                continue
            place = next(
                (
                    n
                    for n, (a, b) in enumerate(zip(wanted, got, strict=False))
                    if a != b
                ),
                min(len(wanted), len(got)),
            )
            return (
                f"event {place}: OTP {_short(wanted[place : place + 1])}, "
                f"dspex {_short(got[place : place + 1])}"
            )
        return f"{field}: OTP {_short(wanted)}, dspex {_short(got)}"
    return None


def _bag(events: Json) -> Counter[str]:
    return Counter(json.dumps(event, sort_keys=True) for event in events)


def _short(value: Json) -> str:
    return json.dumps(value)


def trace_files(paths: list[Path]) -> Iterator[Path]:
    """Give the trace files among files and folders, sorted within a folder."""
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.json"))
        else:
            yield path


def main(arguments: list[str] | None = None) -> int:
    """Replay what the command line names; 1 if any failed, 2 if nothing was found."""
    parser = argparse.ArgumentParser(
        prog="python -m dspex.testing.otp", description="Replay OTP supervision traces."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--verbose", action="store_true", help="print both traces")
    options = parser.parse_args(arguments)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )
    missing = [str(path) for path in options.paths if not path.exists()]
    if missing:
        parser.error(f"no such file or folder: {', '.join(missing)}")
    counts: Counter[str] = Counter()
    for path in trace_files(options.paths):
        trace_file = json.loads(path.read_text())
        outcome = check(trace_file)
        counts[outcome.status] += 1
        if outcome.status != "passed":
            _say(f"{path}: {outcome.status}: {outcome.difference}")
        if options.verbose:
            _say(f"{path}: {outcome.status}")
            for name, steps in (
                ("OTP", trace_file["trace"]["steps"]),
                ("dspex", outcome.ours),
            ):
                for step in steps or ():
                    _say(f"  {name:5} {_short(step)}")
    _say(
        f"otp: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['skipped']} skipped"
    )
    if not counts:
        return 2
    return 1 if counts["failed"] else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
