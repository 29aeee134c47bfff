"""Run benchmarks by name: `python -m benchmarks kernel`; all of them without one."""

import importlib
import pkgutil
import sys
from pathlib import Path

# Minutes each: only when asked for by name.
LONG = {"chaos", "optimizer_gain", "soak"}


def main() -> int:
    names = sorted(
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if not module.name.startswith("_")
    )
    asked, options = sys.argv[1:2], sys.argv[2:]
    if not set(asked) <= set(names):
        print(f"usage: python -m benchmarks {{{'|'.join(names)}}}", file=sys.stderr)
        return 2
    missed = 0
    for name in asked or (it for it in names if it not in LONG):
        missed += bool(importlib.import_module(f"benchmarks.{name}").main(options))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
