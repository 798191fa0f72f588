"""The inner transports of a transport that was given none: those that the library's own client would use.

Each request goes to the transports of its own library, httpx2 or httpx: both may be installed, and an app may use both. The
library's client makes them, so proxies of the environment, certificates and limits are as they would be without sidecard.

Asynchronous ones belong to an event loop, since their connections do: a pool that outlives its loop fails at the next request
of another loop.
"""

from typing import TYPE_CHECKING, Any, Final, Self

from sidecard_client.http.messages.libraries import default_library, library_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import ModuleType

    from sidecard_client._async.event_loops import PerLoop
    from sidecard_client.http.messages.libraries import Request, Response

MAX_CONNECTIONS: Final = 1000
MAX_IDLE_CONNECTIONS: Final = 100
"""The limits of the SDKs of OpenAI and Anthropic: ten times the libraries' own defaults."""


class OwnTransports:
    """What sends a request that is not answered by sidecard, in blocking and in asynchronous code.

    ``settings`` are those of the library's client: ``verify``, ``cert``, ``http2``, ``proxy``, ``trust_env``, ``limits``.
    Raises `ImportError` if neither library is installed.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        default_library()
        self._settings = settings
        self._clients: dict[ModuleType, Any] = {}
        self._pools: PerLoop[_LoopClients] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handle_request(self, request: "Request") -> "Response":
        """Send a request."""
        library = library_of(request)
        client = self._clients.get(library)
        if client is None:
            client = self._clients.setdefault(library, library.Client(**settings_for(library, self._settings)))

        response: Response = transport_for(client, request).handle_request(request)
        return response

    def close(self) -> None:
        """Close the blocking connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def handle_async_request(self, request: "Request") -> "Response":
        """Send a request."""
        if self._pools is None:
            from sidecard_client._async.event_loops import PerLoop  # noqa: PLC0415 - it needs anyio, an optional dependency

            self._pools = PerLoop(lambda: _LoopClients(self._settings))

        pool = self._pools.get()
        if pool.end is None:
            pool.end = pool.until_end()
            await anext(pool.end)

        client = pool.of(library_of(request))
        response: Response = await transport_for(client, request).handle_async_request(request)
        return response

    async def aclose(self) -> None:
        """Close the connections of this event loop. Those of others are closed when their loops end."""
        pool = None if self._pools is None else self._pools.pop()
        if pool is not None and pool.end is not None:
            await pool.end.aclose()


class _LoopClients:
    """The clients of one event loop, by library."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._clients: dict[ModuleType, Any] = {}
        self.end: AsyncGenerator[None] | None = None

    def of(self, library: "ModuleType") -> Any:
        """Return the client of a library."""
        client = self._clients.get(library)
        if client is None:
            client = self._clients[library] = library.AsyncClient(**settings_for(library, self._settings))

        return client

    async def until_end(self) -> "AsyncGenerator[None]":
        """Close the clients at the end: event loops close the generators that have begun in them before they end."""
        try:
            yield
        finally:
            for client in self._clients.values():
                await client.aclose()


def settings_for(library: "ModuleType", settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for a library's client. Limits may be of either library."""
    limits = settings.get("limits")
    if limits is None:
        made = library.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS)
    else:
        made = library.Limits(
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
        )

    return settings | {"limits": made}


def transport_for(client: Any, request: "Request") -> Any:
    """Return the transport that the client would use: that of a proxy, unless the environment exempts the host."""
    return client._transport_for_url(request.url)  # noqa: SLF001 - no public name; the choice is by patterns of the library
