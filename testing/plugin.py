"""The pytest plugin: fixtures for tests of actors, programs and services.

Installed as a `pytest11` entry point, beside pytest-trio.
"""

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

import pytest
from pytest_trio import trio_fixture  # pyright: ignore[reportUnknownVariableType]

from dspex.runtime import Node
from dspex.testing.fake_provider import FakeProvider, open_fake_provider
from dspex.testing.fault_plan import Fault, FaultPlan
from dspex.testing.faults import Faults, inject
from dspex.testing.scripted_lm import ScriptedLM
from dspex.worker.app import Runtime
from dspex.worker.open_runtime import open_runtime

InjectFixture: TypeAlias = Callable[..., AbstractContextManager[Faults]]

_LOOPBACK: Final = ("127.", "::1", "localhost")


class NetworkUsedError(AssertionError):
    """A test under `no_network` connected to something beyond this machine."""

    def __init__(self, address: object) -> None:
        super().__init__(f"no_network: the test connected to {address!r}")


@pytest.fixture
def scripted_lm() -> ScriptedLM:
    """Give a model that answers every request with "ok"; make your own for a script."""
    return ScriptedLM(lambda _: "ok")


@trio_fixture  # type: ignore[untyped-decorator]
async def runtime(scripted_lm: ScriptedLM) -> AsyncGenerator[Runtime]:
    """Give a runtime on `scripted_lm`.

    A test that asks for pytest-trio's `autojump_clock`, too, jumps over every wait.
    """
    async with open_runtime(scripted_lm) as it:
        yield it


@trio_fixture  # type: ignore[untyped-decorator]
async def fake_provider() -> AsyncGenerator[FakeProvider]:
    """Give a provider's server on loopback; `plan(...)` says what it does."""
    async with open_fake_provider() as it:
        yield it


@pytest.fixture
def faults() -> InjectFixture:
    """Give `faults(node, Fault(...), ..., seed=0)`, a context manager: see `inject`."""

    def start(
        node: Node, *listed: Fault, seed: int = 0
    ) -> AbstractContextManager[Faults]:
        return inject(node, FaultPlan(listed, seed))

    return start


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test when it connects to anything but this machine."""

    def guard(name: str) -> Callable[[socket.socket, Any], Any]:  # Any: an address
        original = getattr(socket.socket, name)

        def connect(it: socket.socket, address: Any) -> Any:  # Any: as socket's
            is_path = isinstance(address, str | bytes)
            host = "" if is_path else str(address[0])
            if host and not host.startswith(_LOOPBACK):
                raise NetworkUsedError(address)
            return original(it, address)

        return connect

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guard(name))
