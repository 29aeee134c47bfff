"""What the worker's settings do to its runtime."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("hypercorn")

from dspex.worker import serve
from dspex.worker.app import Runtime
from dspex.worker.application import App
from dspex.worker.open_runtime import LEASE_SECONDS
from dspex.worker.settings import SettingsError, WorkerSettings, read_settings
from tests.worker.triage_app import app


class Opened(Exception):  # noqa: N818 - ends the worker, and is no failure
    """The worker has opened its runtime."""


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (LEASE_SECONDS, True)),
        ({"lease_seconds": 2.5, "resume": False}, (2.5, False)),
    ],
)
def test_lease_and_resume_reach_the_store(
    given: dict[str, Any],
    wanted: tuple[float, bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[float, bool]] = []

    def open_app(
        _: App,
        *,
        lease_seconds: float = -1,
        resume: bool | None = None,
        **others: object,
    ) -> AbstractAsyncContextManager[Runtime]:
        opened.append((lease_seconds, bool(resume)))
        raise Opened

    program = tmp_path / "triage.json"
    program.write_text(app().read_programs()[0].model_dump_json())
    monkeypatch.setattr(serve, "open_app", open_app)
    settings = WorkerSettings(app=str(tmp_path), port=0, **given)
    with pytest.raises(BaseExceptionGroup) as raised:
        serve.run_worker(settings)
    assert raised.group_contains(Opened)
    assert opened == [wanted]


def test_they_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_LEASE_SECONDS", "30")
    monkeypatch.setenv("DSPEX_RESUME", "false")
    settings = read_settings({"app": "a:b", "resume": None})
    assert (settings.lease_seconds, settings.resume) == (30, False)
    assert read_settings({"resume": True}).resume


def test_a_lease_of_no_time_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"lease_seconds.*greater than 0"):
        read_settings({"lease_seconds": 0})
