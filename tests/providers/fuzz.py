"""Fuzz the readers of replies: `python -m tests.providers.fuzz openai body [FLAG...]`.

The flags are libFuzzer's. `make fuzz` runs all four for a minute each.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

READERS: Final = [
    "dspex.providers.sse",
    "dspex.providers.openai_replies",
    "dspex.providers.anthropic_replies",
]


def main() -> None:
    api, kind, *flags = sys.argv[1:]
    # Any: it has no types, and is there only for this.
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=READERS):
        for name in READERS:
            importlib.import_module(name)
    checks = importlib.import_module("tests.providers.reply_checks")
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(checks.seeds(api, kind)):
            Path(corpus, str(number)).write_bytes(seed)

        def check(data: bytes) -> None:
            checks.CHECKS[kind](api, data)

        atheris.Setup([sys.argv[0], corpus, *flags], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
