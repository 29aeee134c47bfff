"""Order: what of a trace's order is promised, and what happens at once."""

import itertools
import json
from typing import cast

from dspex.testing.otp_terms import Json


def canonical(events: list[Json], simple: set[str]) -> list[Json]:
    """Sort each run of ends among the children of one simple_one_for_one supervisor."""

    def group(event: Json) -> str | None:
        if event[0] not in ("terminate", "exit") or event[1] == ".":
            return None
        parent, _, _ = event[1].rpartition("/")
        return parent or "." if (parent or ".") in simple else None

    result: list[Json] = []
    run: list[Json] = []
    run_group: str | None = None
    for event in [*events, None]:
        its_group = None if event is None else group(event)
        if run and its_group != run_group:
            result += sorted(run, key=lambda it: (it[1], it[0] != "terminate"))
            run = []
        run_group = its_group
        if its_group is None:
            result.append(event)
        else:
            run.append(event)
    return result[:-1]


def untangled(events: Json, simple: set[str]) -> list[Json]:
    """Put the ends of what ends at once into one order, to compare two traces.

    The children of a simple_one_for_one supervisor are shut down at once: if they are
    supervisors, the ends of their own children mingle, which the canonical order does
    not reach; if two have one name, it does not say which is first.
    """

    def group(event: Json) -> str | None:
        if event[0] not in ("terminate", "exit"):
            return None
        return next((it for it in _ancestors(event[1]) if it in simple), None)

    result: list[Json] = []
    for above, run in itertools.groupby(cast("list[Json]", events), key=group):
        if above is None:
            result += run
            continue
        branches: dict[str, list[Json]] = {}
        depth = 0 if above == "." else above.count("/") + 1
        for event in run:
            branches.setdefault(event[1].split("/")[depth], []).append(event)
        for _, branch in sorted(branches.items()):
            result += untangled(branch, simple - {above})
    return _untied(result)


def _ancestors(path: str) -> list[str]:
    """Give the supervisors above a path, the root first."""
    if path == ".":
        return []
    parts = path.split("/")
    return [".", *("/".join(parts[:n]) for n in range(1, len(parts)))]


def _untied(events: list[Json]) -> list[Json]:
    untied: list[Json] = []
    for _, run in itertools.groupby(events, key=lambda event: event[:2]):
        untied += sorted(run, key=json.dumps)
    return untied
