"""What httpcore raises, in the words of our own errors and of httpx."""

from typing import Final

import httpcore
import httpx

CORE_ERRORS: Final[tuple[type[Exception], ...]] = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
# The subclasses come before their bases.
_HTTPX_ERRORS: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.ProxyError, httpx.ProxyError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
)


def describe(error: Exception) -> str:
    """Say in a few words what went wrong."""
    kinds = (httpcore.ConnectError, httpcore.ConnectTimeout)
    what = "could not connect" if isinstance(error, kinds) else "the connection broke"
    detail = str(error) or type(error).__name__
    return f"{what} ({detail})"


def as_httpx(error: Exception, request: httpx.Request) -> httpx.TransportError:
    """Give the error of httpx that means the same."""
    for core, kind in _HTTPX_ERRORS:
        if isinstance(error, core):
            return kind(str(error), request=request)
    return httpx.TransportError(str(error), request=request)
