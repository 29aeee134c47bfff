"""The pytest plugin: fixtures for tests of actors, programs and services.

Installed as a `pytest11` entry point, beside pytest-trio.
"""

import inspect
import ipaddress
import re
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias, cast

import pytest
import trio
import trio.testing
from pytest_trio import trio_fixture  # pyright: ignore[reportUnknownVariableType]

from dspex.providers import LM
from dspex.runtime import Node
from dspex.runtime.journal import Journal
from dspex.testing.cassette import CassetteError, RecordingLM, ReplayLM
from dspex.testing.fake_provider import FakeProvider, open_fake_provider
from dspex.testing.fault_plan import Fault, FaultPlan
from dspex.testing.faults import Faults, inject
from dspex.testing.scripted_lm import ScriptedLM
from dspex.worker.app import Runtime
from dspex.worker.open_runtime import open_runtime

RECORD: Final = "--dspex-record"
_ASYNC_FIXTURES: Final = frozenset({"runtime", "fake_provider"})
_FIXTURES: Final = frozenset({"scripted_lm", "faults", "cassette", "no_network"})


class InjectFixture(Protocol):
    """What the fixture `faults` gives."""

    def __call__(
        self,
        node: Node,
        *listed: Fault,
        seed: int = 0,
        journal: Journal | None = None,
    ) -> AbstractContextManager[Faults]:
        """Carry out these faults on a node: see `inject`."""
        ...


CassetteFixture: TypeAlias = Callable[[Callable[[], LM]], RecordingLM | ReplayLM]


class NetworkUsedError(AssertionError):
    """A test under `no_network` connected to something beyond this machine."""

    def __init__(self, address: object) -> None:
        super().__init__(f"no_network: the test connected to {address!r}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that records cassettes."""
    parser.getgroup("dspex").addoption(
        RECORD, action="store_true", help="call the real models of `cassette`, anew"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have async tests that use a fixture from here run by trio, as if marked so.

    Those with a `runtime` run on a clock that jumps over waits. A test that another
    framework runs is left to it, unless it needs trio.
    """
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(
        item.obj
    ):
        return
    used = set(item.fixturenames)
    if "runtime" in used:
        # pytest-trio takes a clock only from the arguments of the test itself.
        item.add_marker(pytest.mark.trio(run=_run_on_a_jumping_clock))
    elif used & _ASYNC_FIXTURES or (used & _FIXTURES and not _is_anothers(item)):
        item.add_marker(pytest.mark.trio)


def _is_anothers(item: pytest.Function) -> bool:
    # pytest-asyncio has a class of its own for its tests.
    marked = any(item.get_closest_marker(it) for it in ("anyio", "asyncio"))
    return marked or type(item) is not pytest.Function


def _run_on_a_jumping_clock(
    main: Callable[..., Any],  # Any: as trio.run
    *arguments: Any,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Any:
    jumping = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, *arguments, clock=clock or jumping, instruments=instruments)


@pytest.fixture
def scripted_lm() -> ScriptedLM:
    """Give a model whose answers fit their requests; make your own for a script."""
    return ScriptedLM()


@trio_fixture  # type: ignore[untyped-decorator]
async def runtime(scripted_lm: ScriptedLM) -> AsyncGenerator[Runtime]:
    """Give a runtime on `scripted_lm`; the test's clock is a virtual one that jumps.

    Processes, sockets and threads know no virtual clock: a test that needs them opens
    a runtime by `open_runtime`.
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
        node: Node,
        *listed: Fault,
        seed: int = 0,
        journal: Journal | None = None,
    ) -> AbstractContextManager[Faults]:
        return inject(node, FaultPlan(listed, seed), journal=journal)

    return start


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> CassetteFixture:
    """Give `cassette(make_lm)`: a model that says what was recorded for this test.

    Its file is `cassettes/MODULE/TEST.jsonl` beside the test. With `--dspex-record`
    the model that `make_lm` makes is called, and its answers are recorded anew.
    """
    name = re.sub(r"[^\w.-]+", "_", request.node.name).strip("_")
    path = request.path.parent / "cassettes" / request.path.stem / f"{name}.jsonl"
    taken = False

    def play(make_lm: Callable[[], LM]) -> RecordingLM | ReplayLM:
        nonlocal taken
        if taken:
            raise CassetteError(f"{path}: a test has one cassette; share its model")
        taken = True
        if request.config.getoption(RECORD):
            path.unlink(missing_ok=True)
            return RecordingLM(make_lm(), path)
        if not path.exists():
            raise CassetteError(f"{path} is not there: record it by pytest {RECORD}")
        return ReplayLM(path)

    return play


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test when it connects to, or asks for, anything but this machine."""

    def guard(owner: Any, name: str, *, at: int) -> None:  # Any: what it patches
        original = getattr(owner, name)

        def guarded(*arguments: Any, **named: Any) -> Any:  # Any: as socket's
            address = arguments[at] if arguments else named.get("host")
            if not _is_local(address):
                raise NetworkUsedError(address)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, guarded)

    guard(socket.socket, "connect", at=1)
    guard(socket.socket, "connect_ex", at=1)
    guard(socket.socket, "sendto", at=-1)
    guard(socket, "getaddrinfo", at=0)


def _is_local(address: Any) -> bool:  # Any: as socket's
    host = cast("object", address[0] if isinstance(address, tuple) else address)
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or not host or host.startswith("/"):
        return True  # a path, or this machine
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
