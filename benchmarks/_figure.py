"""A figure: one JSON line, which says itself what it should reach and whether it does.

{"figure": "calls", "value": 91700, "unit": "1/s",
 "reach": ">= 0.65 x limit and >= 1.5 x pykka",
 "against": {"limit": 121500, "pykka": 45300}, "holds": true}
"""

import json
import operator
import re
from collections.abc import Mapping

_CLAUSE = re.compile(r"(?P<relation><=|>=) (?P<bound>[\d.]+)(?: x (?P<peer>\w+))?")
_RELATIONS = {"<=": operator.le, ">=": operator.ge}


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    reach: str = "reported",
    against: Mapping[str, float] | None = None,
) -> bool:
    """Print a figure; whether it holds.

    `reach` is "reported", or conditions on the value joined by " and ": a number
    ("<= 0.3"), or a multiple of something measured beside it (">= 1.5 x pykka").

    Raises:
        ValueError: `reach` is not of that form, or names what `against` has not.
    """
    peers = dict(against or {})
    good = reach == "reported" or all(
        _holds(clause, value, peers) for clause in reach.split(" and ")
    )
    line = {
        "figure": name,
        "value": _short(value),
        "unit": unit,
        "reach": reach,
        "against": {peer: _short(measured) for peer, measured in peers.items()},
        "holds": good,
    }
    print(json.dumps(line), flush=True)
    return good


def _holds(clause: str, value: float, peers: Mapping[str, float]) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError(f"reach {clause!r} is not like '<= 0.3' or '>= 2 x peer'")
    bound = float(match["bound"])
    if match["peer"] is not None:
        if match["peer"] not in peers:
            raise ValueError(f"reach {clause!r} names none of {sorted(peers)}")
        bound *= peers[match["peer"]]
    return bool(_RELATIONS[match["relation"]](value, bound))


def _short(value: float) -> float:
    """Give four significant digits: what was measured has no more."""
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded
