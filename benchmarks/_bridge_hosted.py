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


def work(seconds: float) -> dict[str, int]:
    """Compute for so much CPU time, whoever else has the core meanwhile."""
    end, rounds = time.thread_time() + seconds, 0
    while time.thread_time() < end:
        rounds += 1
    return {"rounds": rounds}
