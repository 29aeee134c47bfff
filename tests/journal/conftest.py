"""A store on a real file, with its writer under a real supervisor."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dspex.runtime import Node, open_node
from dspex.runtime.journal import (
    WRITER,
    AcceptRun,
    Fence,
    Journal,
    RecordEffect,
    open_store,
)
from dspex.supervisors import ChildSpec, Supervisor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@asynccontextmanager
async def opened(store: Path | str) -> AsyncGenerator[tuple[Journal, Node]]:
    async with open_store(store) as opened_store, open_node() as node:
        journal = Journal(opened_store)
        writer = ChildSpec(WRITER, journal.writer, name=WRITER)
        await node.start(Supervisor([writer], intensity=100), name="root")
        yield journal, node


def run_of(run: str, owner: str | None = "w", at: float = 1.0) -> AcceptRun:
    return AcceptRun(run, "p", 1, '{"a": 1}', "{}", at, owner)


def effect_of(fence: Fence, occurrence: int = 0, response: str = '"r"') -> RecordEffect:
    return RecordEffect(
        fence, "s", "fp", occurrence, "model", '{"q": 1}', response, None, 0.1, 2.0
    )
