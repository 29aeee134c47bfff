"""What mypy and pyright know of calls; both check this file, and unused ignores fail.

`python -m mypy` (strict) and `pyright` are part of `make check`; the run itself proves
that the types they know are the ones that come.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

import pytest

from dspex.runtime import Actor, ActorRef, Deferred, NamedRef, open_node


class Counter(Actor):
    def __init__(self) -> None:
        self.value = 0

    async def add(self, n: int) -> int:
        self.value += n
        return self.value

    async def label(self, text: str, times: int = 1) -> str:
        return text * times

    async def later(self) -> Deferred[bytes]:
        waiting: Deferred[bytes] = self.deferred()
        waiting.reply(b"later")
        return waiting

    async def forget(self) -> None:
        self.value = 0


class Other(Actor):
    async def other(self) -> int:
        return 1


async def test_a_calls_answer_has_the_handlers_type() -> None:
    async with open_node() as node:
        ref = await node.start(Counter(), name="counter")
        assert_type(ref, ActorRef[Counter])
        named = node.named("counter", Counter)
        assert_type(named, NamedRef[Counter])
        sum_ = await ref.call(Counter.add, 2)
        assert_type(sum_, int)
        assert sum_ == 2
        assert_type(await named.call(Counter.add, 2, timeout=1), int)
        text = await ref.call(Counter.label, "a", 3)
        assert_type(text, str)
        assert text == "aaa"
        deferred = await ref.call(Counter.later)
        assert_type(deferred, bytes)
        assert deferred == b"later"
        assert_type(await ref.call(Counter.forget), None)


async def test_a_wrong_call_is_a_type_error_and_fails_its_caller() -> None:
    async with open_node() as node:
        ref = await node.start(Counter())
        with pytest.raises(TypeError):
            await ref.call(Counter.add)  # type: ignore[arg-type, call-arg]
        with pytest.raises(TypeError):
            await ref.call(Counter.add, 1, 2)  # type: ignore[arg-type, call-arg]
        # What only a type checker sees runs: a string is as good as a number here.
        assert await ref.call(Counter.label, 3, 2) == 6  # type: ignore[arg-type, call-arg]
        assert await ref.call(Other.other) == 1  # type: ignore[arg-type, call-arg]
