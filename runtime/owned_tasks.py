"""Owned tasks: work that runs beside an actor and never outlives it."""

from collections.abc import Awaitable, Callable

import trio


class OwnedTasks:
    """The tasks an actor has spawned; a crash of one is told to the actor."""

    __slots__ = ("_crashed", "_idle", "_nursery", "_scopes")

    def __init__(
        self, nursery: trio.Nursery, crashed: Callable[[BaseException], None]
    ) -> None:
        self._nursery = nursery
        self._crashed = crashed
        self._scopes: dict[trio.CancelScope, None] = {}
        self._idle = trio.Event()

    def start(
        self,
        work: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
        *,
        deadline: float,
    ) -> trio.CancelScope:
        """Start a task; its scope cancels it."""
        # To set the deadline afterwards would take as long again.
        scope = trio.CancelScope(deadline=deadline)
        self._scopes[scope] = None
        name = getattr(work, "__qualname__", None)
        self._nursery.start_soon(self._run, scope, work, arguments, name=name)
        return scope

    async def _run(
        self,
        scope: trio.CancelScope,
        work: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
    ) -> None:
        try:
            with scope:
                await work(*arguments)
        except (trio.Cancelled, GeneratorExit):
            raise
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if rest is not None:
                self._crashed(rest)
            if cancelled is not None:
                raise cancelled from None
        except BaseException as error:  # noqa: BLE001 - it crashes the actor, as a link
            self._crashed(error)
        finally:
            del self._scopes[scope]
            if not self._scopes:
                self._idle.set()

    async def end(self) -> None:
        """Cancel every task and wait until it is gone."""
        while self._scopes:
            self._idle = trio.Event()
            for scope in list(self._scopes):
                scope.cancel()
            with trio.CancelScope(shield=True):
                await self._idle.wait()
