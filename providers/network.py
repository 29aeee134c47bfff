"""The socket below HTTP: trio streams with few system calls.

httpcore writes a request in two parts and reads after that. Here the parts are kept
and go out together at the first read, and no cancel scope is opened for a wait that
has no timeout of its own.
"""

import contextlib
import math
import ssl
from collections.abc import Iterable
from typing import Any, cast

import httpcore
import trio

_FLUSH_BYTES = 65_536


class Network(httpcore.AsyncNetworkBackend):
    """Opens TCP connections for httpcore."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect within `timeout` seconds, to whichever address answers first."""
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                stream = await trio.open_tcp_stream(
                    host, port, local_address=local_address
                )
        except trio.TooSlowError as error:
            raise httpcore.ConnectTimeout(
                f"no connection within {timeout:g} s"
            ) from error
        except OSError as error:
            raise httpcore.ConnectError(_reason(error)) from error
        for option in socket_options or ():
            stream.setsockopt(*option)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return NetworkStream(stream, stream)


class NetworkStream(httpcore.AsyncNetworkStream):
    """One connection."""

    def __init__(
        self, stream: trio.SocketStream | trio.SSLStream[Any], tcp: trio.SocketStream
    ) -> None:
        self._stream = stream
        self._tcp = tcp
        self._unsent = bytearray()
        # HTTP/2 has many writers, and a reader that may wait already.
        self._is_shared = (
            isinstance(stream, trio.SSLStream)
            and stream.selected_alpn_protocol() == "h2"
        )

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep the bytes until the next read, or until there are many."""
        self._unsent += buffer
        if self._is_shared or len(self._unsent) > _FLUSH_BYTES:
            try:
                await self._flush(timeout)
            except trio.TooSlowError as error:
                raise httpcore.WriteTimeout from error
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise httpcore.WriteError(_reason(error)) from error

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Send what was kept, then read."""
        try:
            if self._unsent:
                # The server may have answered before it closed: read that.
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._flush(timeout)
            if timeout is None:
                data = await self._stream.receive_some(max_bytes)
            else:
                with trio.fail_after(timeout):
                    data = await self._stream.receive_some(max_bytes)
        except trio.TooSlowError as error:
            raise httpcore.ReadTimeout from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError(_reason(error)) from error
        return bytes(data)

    async def aclose(self) -> None:
        """Close; what was not sent is dropped."""
        self._unsent.clear()
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Shake hands within `timeout` seconds and go on in TLS."""
        secure = trio.SSLStream(
            self._tcp,
            ssl_context,
            server_hostname=server_hostname,
            https_compatible=True,
        )
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                await secure.do_handshake()
        except trio.TooSlowError as error:
            await trio.aclose_forcefully(self._tcp)
            raise httpcore.ConnectTimeout(
                f"no TLS handshake within {timeout:g} s"
            ) from error
        except (trio.BrokenResourceError, ssl.SSLError, OSError) as error:
            await trio.aclose_forcefully(self._tcp)
            raise httpcore.ConnectError(f"TLS: {_reason(error)}") from error
        except BaseException:
            await trio.aclose_forcefully(self._tcp)
            raise
        return NetworkStream(secure, self._tcp)

    def get_extra_info(self, info: str) -> object:
        """Answer what httpcore asks about the socket."""
        match info:
            case "is_readable":
                return self._tcp.socket.is_readable()
            case "ssl_object" if isinstance(self._stream, trio.SSLStream):
                # SSLStream forwards attributes, this one included, by __getattr__.
                return self._stream
            case "socket":
                return self._tcp.socket
            case "client_addr":
                return self._tcp.socket.getsockname()
            case "server_addr":
                return self._tcp.socket.getpeername()
            case _:
                return None

    async def _flush(self, timeout: float | None) -> None:
        data = bytes(self._unsent)
        self._unsent.clear()
        if timeout is None:
            await self._stream.send_all(data)
        else:
            with trio.fail_after(timeout):
                await self._stream.send_all(data)


def _reason(error: BaseException) -> str:
    """Give the text of the innermost cause, which names what really happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return "; ".join(dict.fromkeys(map(_reason, group.exceptions)))
    return str(error) or type(error).__name__
