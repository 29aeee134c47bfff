"""Fixtures of several of these tests."""

import time
import uuid
from collections.abc import Iterator

import pytest

from tests.integration.bridge_processes import processes_with


@pytest.fixture
def strays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check that a test leaves no process behind, wherever it may hang."""
    mark = f"DSPEX_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    yield
    deadline = time.monotonic() + 3
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes_with(mark) == []
