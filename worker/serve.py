"""Serve: the worker's life, from its settings to its exit status.

Exit status: 0 stopped in order and every accepted run finished; 1 runs were left
when the drain was over; 2 it could not start; 3 the supervision tree gave up; a
second SIGTERM or SIGINT ends it at once, by that signal.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import trio
from hypercorn.config import Config

from dspex.providers.lm import LM
from dspex.runtime import DspexError
from dspex.runtime.log import get_logger
from dspex.runtime.reasons import describe
from dspex.worker.app import Runtime
from dspex.worker.application import App, open_app
from dspex.worker.connections import serve_clients
from dspex.worker.errors import RuntimeStoppedError
from dspex.worker.garbage import keep_tidy, settle_memory
from dspex.worker.guard import Sessions
from dspex.worker.http_api import make_api
from dspex.worker.loading import Loader
from dspex.worker.metrics import RuntimeCollector
from dspex.worker.models import read_lm
from dspex.worker.observer import Observer
from dspex.worker.sd_notify import Notifier
from dspex.worker.service import Service
from dspex.worker.settings import WorkerSettings

log = get_logger()

FINISHED: Final = 0
RUNS_LEFT: Final = 1
NOT_STARTED: Final = 2
GAVE_UP: Final = 3

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)
# `timeout` and some supervisors send a signal to the process and to its group.
_SAME_SIGNAL_SECONDS: Final = 0.2
_CONNECTION_SECONDS: Final = 3.0
_UNREAD_SECONDS: Final = 10.0
"""How long a client may read nothing of what is sent; hypercorn waits for ever."""


def run_worker(
    settings: WorkerSettings,
    *,
    change_app: Callable[[App], App] = lambda app: app,
    around: Callable[[Runtime], AbstractAsyncContextManager[object]] = nullcontext,
) -> int:
    """Run a worker until a signal ends it; give its exit status.

    `change_app` may put something around its model, and `around` around its runtime.
    """
    try:
        return trio.run(_Worker(settings, change_app, around).run)
    except RuntimeStoppedError as error:
        log.critical("worker_gave_up", reason=str(error))
        return GAVE_UP
    except DspexError as error:
        print(f"dspex: {error}", file=sys.stderr)  # noqa: T201
        return NOT_STARTED


class _Worker:
    def __init__(
        self,
        settings: WorkerSettings,
        change_app: Callable[[App], App],
        around: Callable[[Runtime], AbstractAsyncContextManager[object]],
    ) -> None:
        self._settings = settings
        self._change_app = change_app
        self._around = around
        self._lm: LM | None = None
        self._loader = Loader(settings.app, make_lm=self._make_lm)
        self._notifier = Notifier()
        self._service: Service | None = None
        self._told_to_end = trio.Event()

    def _make_lm(self) -> LM | None:
        if self._lm is None:
            settings = self._settings
            self._lm = read_lm(
                settings.lm, base_url=settings.base_url, timeout=settings.timeout
            )
        return self._lm

    async def run(self) -> int:
        status = FINISHED
        failure: DspexError | None = None
        with trio.open_signal_receiver(*_ENDING, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals, nursery)
                # Kept apart, so that an error leaves without the nursery's group.
                try:
                    status = await self._run()
                except DspexError as error:
                    failure = error
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return status

    async def _run(self) -> int:
        settings = self._settings
        app = self._change_app(self._loader.load())
        bound = bind(settings)
        async with (
            open_app(
                app,
                store=settings.store,
                shutdown_timeout=settings.shutdown_timeout,
                max_runs=settings.max_runs,
                max_running=settings.max_running,
                lease_seconds=settings.lease_seconds,
                resume=settings.resume,
                keep_text=settings.keep_text,
                search_path=[Path.cwd()],
                pool=settings.pool,
                embedded_timeout=settings.timeout,
            ) as runtime,
            self._around(runtime),
        ):
            self._service = service = make_service(runtime, settings)
            async with trio.open_nursery() as nursery:
                (url,) = await nursery.start(listen, service, bound)
                settle_memory()
                log.info("worker_ready", url=url, pid=os.getpid())
                self._notifier.tell("READY=1")
                nursery.start_soon(self._keep_alive, service)
                await self._told_to_end.wait()
                status = await self._drain(service)
                nursery.cancel_scope.deadline = (
                    trio.current_time() + 2 * _CONNECTION_SECONDS
                )
            return status

    async def _keep_alive(self, service: Service) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notifier.keep_alive)
            nursery.start_soon(keep_tidy)
            await service.closing.wait()
            nursery.cancel_scope.cancel()

    async def _drain(self, service: Service) -> int:
        """Accept nothing more, let runs finish, close; give the exit status."""
        service.is_draining = True
        self._notifier.tell("STOPPING=1")
        table = service.runtime.table
        log.info("worker_draining", unfinished=len(table.unfinished))
        late = trio.current_time() + self._settings.drain_timeout
        if service.runtime.has_store:
            await service.runtime.drain(timeout=self._settings.drain_timeout)
        with trio.move_on_at(late):
            for record in table.unfinished:
                await table.wait_finished(record.id)
        left = len(table.unfinished)
        log.info("worker_stopping", unfinished=left)
        service.closing.set()
        return RUNS_LEFT if left else FINISHED

    async def _heed(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                if self._service is not None:
                    await self._reload(self._service.runtime)
            elif not self._told_to_end.is_set():
                self._told_to_end.set()
                if self._service is None:  # still starting
                    nursery.cancel_scope.cancel()
                nursery.start_soon(_let_the_next_signal_kill)

    async def _reload(self, runtime: Runtime) -> None:
        self._notifier.tell("RELOADING=1")
        try:
            with self._loader.load_anew() as app:
                changes = await runtime.reload(app.read_programs())
        except Exception as error:  # noqa: BLE001 - whatever the app's module raises
            facts = {"reason": describe(error)}
            if not isinstance(error, DspexError):
                facts["at"] = _raised_at(error)
            log.error("reload_failed", **facts)  # noqa: TRY400 - one line
        else:
            log.info("reloaded", **changes)
        self._notifier.tell("READY=1")


def _raised_at(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"


async def listen(
    service: Service, bound: int, *, task_status: trio.TaskStatus[list[str]]
) -> None:
    """Serve the API until `service.closing` is set; the task's status is its URLs.

    `bound` is what `bind` gave; it is closed here.
    """
    config = Config()
    config.accesslog = None
    config.loglevel = "WARNING"
    config.include_server_header = False
    config.graceful_timeout = _CONNECTION_SECONDS
    config.backlog = 4096
    taken = socket.socket(fileno=bound)
    taken.setblocking(False)
    host, port = taken.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.keep_streams)
        await nursery.start(
            partial(serve_clients, until=service.closing.wait),
            make_api(service, Observer(service).routes()),
            config,
            taken,
        )
        task_status.started([f"http://{where}:{port}"])


def bind(settings: WorkerSettings) -> int:
    """Take the address to listen on; give its file descriptor, for `listen`.

    Raises:
        AddressError: it is taken, or not this machine's.
    """
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as it:
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            it.bind((host, port))
            it.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            patience = round(_UNREAD_SECONDS * 1_000)
            it.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
            return it.detach()
    except OSError as error:
        raise AddressError(f"{host}:{port}", error) from error


def make_service(runtime: Runtime, settings: WorkerSettings) -> Service:
    """Give what `listen` serves."""
    token = None if settings.token is None else settings.token.get_secret_value()
    collector = RuntimeCollector(runtime)
    return Service(runtime, settings, Sessions(token), collector, collector.streams)


class AddressError(DspexError):
    """The worker cannot listen where it was told to."""

    def __init__(self, bind: str, error: OSError) -> None:
        super().__init__(
            f"cannot listen on {bind}: {error.strerror or error}; "
            "give another --host or --port"
        )
        self.bind = bind


async def _let_the_next_signal_kill() -> None:
    await trio.sleep(_SAME_SIGNAL_SECONDS)
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
