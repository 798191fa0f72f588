"""The inner transports of a transport that was given none: those of each request's own library, httpx2 or httpx.

Both libraries may be installed, and an app may use both. The asynchronous ones belong to an event loop, since their connections
do: a pool that outlives its loop fails at the next request of another loop.
"""

from typing import TYPE_CHECKING, Any, Self

from sidecard_client.http.translation import default_library, library_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
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
        self._pools: PerLoop[_Pools] = PerLoop(_Pools)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def handle_async_request(self, request: "Request") -> "Response":
        """Send a request."""
        pools = self._pools.get()
        if pools.end is None:
            pools.end = pools.until_end()
            await anext(pools.end)

        response: Response = await pools.of(library_of(request)).handle_async_request(request)
        return response

    async def aclose(self) -> None:
        """Close the connections of this event loop. Those of others are closed when their loops end."""
        pools = self._pools.pop()
        if pools is not None and pools.end is not None:
            await pools.end.aclose()


class _Pools:
    """The transports of one event loop, by library."""

    def __init__(self) -> None:
        self._transports: dict[ModuleType, Any] = {}
        self.end: AsyncGenerator[None] | None = None

    def of(self, library: "ModuleType") -> Any:
        """Return the transport of a library."""
        transport = self._transports.get(library)
        if transport is None:
            transport = self._transports[library] = library.AsyncHTTPTransport()

        return transport

    async def until_end(self) -> "AsyncGenerator[None]":
        """Close the transports at the end: event loops close the generators that have begun in them before they end."""
        try:
            yield
        finally:
            for transport in self._transports.values():
                await transport.aclose()
