"""Run one benchmark by name: `python -m benchmarks kernel`."""

import importlib
import pkgutil
import sys
from pathlib import Path


def main() -> int:
    names = sorted(
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if not module.name.startswith("_")
    )
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"usage: python -m benchmarks {{{'|'.join(names)}}}", file=sys.stderr)
        return 2
    status = importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
    return int(status or 0)


if __name__ == "__main__":
    raise SystemExit(main())
