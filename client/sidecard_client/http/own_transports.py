"""The inner transports of a transport that was given none: those of each request's own library, httpx2 or httpx.

Both libraries may be installed, and an app may use both. The asynchronous ones belong to an event loop, since their connections
do: a pool that outlives its loop fails at the next request of another loop.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from sidecard_client.http.translation import default_library, library_of

if TYPE_CHECKING:
    from types import ModuleType

    from sidecard_client.http.translation import Request, Response


class OwnTransport:
    """``HTTPTransport``, by library. Raises `ImportError` if neither library is installed."""

    def __init__(self) -> None:
        default_library()
        self._transports: dict[ModuleType, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handle_request(self, request: "Request") -> "Response":
        """Send a request."""
        library = library_of(request)
        transport = self._transports.get(library)
        if transport is None:
            transport = self._transports.setdefault(library, library.HTTPTransport())

        response: Response = transport.handle_request(request)
        return response

    def close(self) -> None:
        """Close the connections."""
        transports, self._transports = self._transports, {}
        for transport in transports.values():
            transport.close()


class OwnAsyncTransport:
    """``AsyncHTTPTransport``, by event loop and library. Raises as `OwnTransport`."""

    def __init__(self) -> None:
        from sidecard_client._async.event_loops import PerLoop  # noqa: PLC0415 - it needs anyio, an optional dependency

        default_library()
        self._transports: PerLoop[dict[ModuleType, Any]] = PerLoop(dict)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def handle_async_request(self, request: "Request") -> "Response":
        """Send a request."""
        library = library_of(request)
        transports = self._transports.get()
        transport = transports.get(library)
        if transport is None:
            transport = transports[library] = library.AsyncHTTPTransport()

        response: Response = await transport.handle_async_request(request)
        return response

    async def aclose(self) -> None:
        """Close the connections of this event loop. Those of others are closed by the garbage collector."""
        for transport in (self._transports.pop() or {}).values():
            with suppress(RuntimeError):  # of a connection whose event loop has ended
                await transport.aclose()
