"""Invariants: what must hold whatever went wrong; a breach is named."""

from collections import Counter
from collections.abc import Iterable

from dspex.providers import Request
from dspex.testing.faults import Faults
from dspex.testing.model_faults import FaultyLM
from dspex.testing.process_faults import descendants


def assert_every_caller_answered(faults: Faults) -> None:
    """Check that every call that was met has an answer or an error.

    Raises:
        AssertionError: some have neither; names them.
    """
    left = faults.unanswered()
    if left:
        raise AssertionError(f"{len(left)} callers were left waiting: {left[:10]}")


def assert_restarted(faults: Faults, name: str, *, times: int) -> None:
    """Check that the actor of this name was started again exactly so often.

    Raises:
        AssertionError: it was not; tells how often it was.
    """
    seen = faults.restarts(name)
    if seen != times:
        raise AssertionError(f"{name!r} was restarted {seen} times, not {times}")


def assert_every_fault_struck(*carried_out: Faults | FaultyLM) -> None:
    """Check that every fault of a plan did harm: a wrong pattern would do none.

    Raises:
        AssertionError: some did not; says of each what there was instead.
    """
    missed = [it for one in carried_out for it in one.tallies if not it.struck]
    if missed:
        raise AssertionError("\n".join(map(str, missed)))


def assert_no_repeated_effects(requests: Iterable[Request]) -> None:
    """Check that no model call was made twice; give what a model was asked.

    Raises:
        AssertionError: equal requests were made; gives one of them.
    """
    known = list(requests)
    counts = Counter(request.fingerprint() for request in known)
    twice = [it for it in known if counts[it.fingerprint()] > 1]
    if twice:
        last = twice[0].messages[-1].text[:200]
        times = counts[twice[0].fingerprint()]
        raise AssertionError(f"a model call was made {times} times: {last!r}")


def assert_no_orphans(*, allowed: Iterable[int] = ()) -> None:
    """Check that no process below this one lives but those in `allowed`, and theirs.

    A child that has ended and was not waited for is no orphan.

    Raises:
        AssertionError: there are some; names their pids and command lines.
    """
    left = descendants(without=allowed)
    if left:
        named = ", ".join(f"{it.pid} ({it.command[:100]})" for it in left)
        raise AssertionError(f"child processes are left: {named}")
