"""What runs in the hosted processes of `benchmarks.bridge`."""

import os
import time


def echo(text: str) -> dict[str, str]:
    return {"text": text}


def pid() -> dict[str, int]:
    return {"pid": os.getpid()}


def burn(seconds: float) -> dict[str, float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return {"burnt": seconds}
