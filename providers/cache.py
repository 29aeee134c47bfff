"""A cache before a model: the same request is paid once."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import trio

from dspex.providers.cache_stores import CacheStore
from dspex.providers.errors import (
    InvalidRequestError,
    ProviderError,
    ProviderTimeoutError,
)
from dspex.providers.lm import LM, Wrapper
from dspex.providers.messages import Message, Request, Response
from dspex.providers.streams import (
    Delta,
    ResponseStream,
    stream_of,
    streaming,
    watched,
)
from dspex.runtime.log import get_logger

# What a store is given for a look-up, and to keep an answer.
_STORE_SECONDS: Final = 1.0

_log = get_logger()


@dataclass(slots=True)
class _Flight:
    """A call that is under way, and what came of it."""

    done: trio.Event = field(default_factory=trio.Event)
    response: Response | None = None
    error: ProviderError | None = None


class Cached(Wrapper[LM]):
    """Answers a request that was answered before from a store.

    Two requests are the same when the model's name and everything that changes the
    answer are equal; also a temperature over zero is cached, so give another `seed`
    for another sample. Equal requests at the same time make one call: if it fails,
    all fail alike; if its caller is cancelled or times out, another one calls. A
    cached answer has a usage, which was paid only once, and no `seconds`. Equal
    streams at the same time do not wait for each other, and each calls. A store that
    takes more than a second, or than the call has left, has nothing and keeps nothing.
    """

    def __init__(
        self, lm: LM, store: CacheStore, *, ttl_seconds: float | None = None
    ) -> None:
        super().__init__(lm)
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._flights: dict[str, _Flight] = {}
        self.hits = 0
        self.misses = 0

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Give the answer from the store, from a call under way, or from the model.

        Raises:
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        request = Request.of(request)
        key = self.key(request)
        deadline = None if timeout is None else trio.current_time() + timeout
        landed = await self._landed(key, timeout, deadline)
        if landed is not None:
            return landed
        flight = self._flights[key] = _Flight()
        try:
            flight.response = await self._find(key, timeout, deadline)
            if flight.response is None:
                self.misses += 1
                flight.response = await self._lm.complete(
                    request, timeout=_left(deadline)
                )
                await self._keep(key, flight.response, deadline)
            else:
                self.hits += 1
            return flight.response
        except ProviderTimeoutError:
            raise
        except ProviderError as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.done.set()

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Give the stream of the answer; one that is kept already comes at once.

        It is kept when it was read to its end.

        Raises:
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        request = Request.of(request)
        key = self.key(request)
        deadline = None if timeout is None else trio.current_time() + timeout
        known = await self._landed(key, timeout, deadline)
        if known is None:
            known = await self._find(key, timeout, deadline)
            self.hits += known is not None
        if known is not None:
            yield stream_of(known)
            return
        self.misses += 1

        async def keep(response: Response) -> None:
            await self._keep(key, response, deadline)

        async with streaming(self._lm).stream(
            request, timeout=_left(deadline)
        ) as stream:
            yield watched(stream, on_delta=_ignore, on_end=keep)

    def key(self, request: Request) -> str:
        """Give the key of a request to this model."""
        text = f"{self._lm.name}\n{request.fingerprint()}"
        return hashlib.sha256(text.encode()).hexdigest()

    async def _landed(
        self, key: str, timeout: float | None, deadline: float | None
    ) -> Response | None:
        """Give the answer of a call that is under way; None: there is none."""
        while (flight := self._flights.get(key)) is not None:
            await self._wait(flight, timeout, deadline)
            if flight.error is not None:
                raise flight.error
            if flight.response is not None:
                self.hits += 1
                return replace(flight.response, is_cached=True)
            # Whoever called was cancelled, or had less time: call oneself.
        return None

    async def _keep(self, key: str, response: Response, deadline: float | None) -> None:
        body = msgspec.json.encode(response.to_json())
        with trio.move_on_after(_store_seconds(deadline)) as scope:
            await self._store.put(key, body, self._ttl_seconds)
        if scope.cancelled_caught:
            _log.warning("cache_entry_not_kept", key=key, reason="the store is slow")

    async def _wait(
        self, flight: _Flight, timeout: float | None, deadline: float | None
    ) -> None:
        with trio.CancelScope() as scope:
            if deadline is not None:
                scope.deadline = deadline
            await flight.done.wait()
        if scope.cancelled_caught:
            raise self._timed_out(timeout)

    def _timed_out(self, timeout: float | None) -> ProviderTimeoutError:
        provider, _, model = self.name.partition(":")
        return ProviderTimeoutError(
            f"no answer within {timeout:g} s", provider=provider, model=model
        )

    async def _find(
        self, key: str, timeout: float | None, deadline: float | None
    ) -> Response | None:
        body: bytes | None = None
        with trio.move_on_after(_store_seconds(deadline)) as scope:
            body = await self._store.get(key)
        if scope.cancelled_caught:
            if _left(deadline) == 0.0:
                raise self._timed_out(timeout)
            _log.warning("cache_entry_not_found", key=key, reason="the store is slow")
        if body is None:
            return None
        try:
            kept = Response.from_json(msgspec.json.decode(body))
            return replace(kept, is_cached=True)
        except (msgspec.DecodeError, InvalidRequestError) as error:
            # Another version wrote it, or it is damaged: it will be written anew.
            _log.warning("cache_entry_unreadable", key=key, reason=str(error))
            return None


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - trio.current_time(), 0.0)


def _store_seconds(deadline: float | None) -> float:
    left = _left(deadline)
    return _STORE_SECONDS if left is None else min(left, _STORE_SECONDS)


def _ignore(delta: Delta) -> None:
    pass
