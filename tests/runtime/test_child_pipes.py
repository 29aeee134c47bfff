"""Pipes to a child: what is open after its start, and after a start that failed."""

import os
from pathlib import Path

import pytest

from dspex.runtime.child_pipes import child_pipes


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_after_a_start_our_ends_are_open_and_theirs_are_not() -> None:
    before = open_descriptors()
    with child_pipes() as pipes:
        to_child, from_child = pipes.to_child(), pipes.from_child()
        os.write(to_child.ours, b"in")
        os.write(from_child.theirs, b"out")
        assert os.read(to_child.theirs, 9) == b"in"
    assert open_descriptors() - before == {str(to_child.ours), str(from_child.ours)}
    # The other side is closed, but for the child's own copy: this is the end.
    assert os.read(from_child.ours, 9) == b"out"
    assert os.read(from_child.ours, 9) == b""
    os.close(to_child.ours)
    os.close(from_child.ours)


def test_a_start_that_fails_leaves_nothing_open() -> None:
    before = open_descriptors()

    def start() -> None:
        with child_pipes() as pipes:
            pipes.to_child()
            pipes.from_child()
            Path("/no/such/program").read_bytes()

    with pytest.raises(FileNotFoundError):
        start()
    assert open_descriptors() == before


def test_a_pipe_that_cannot_be_made_leaves_none_of_those_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = open_descriptors()
    ends = [os.pipe()]
    monkeypatch.setattr(os, "pipe", ends.pop)

    def start() -> None:
        with child_pipes() as pipes:
            pipes.to_child()
            pipes.from_child()

    with pytest.raises(IndexError):
        start()
    assert open_descriptors() == before
