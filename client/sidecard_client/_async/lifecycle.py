"""How an asynchronous client is closed and forked, and how it decorates. The calls themselves are in `client`."""

import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, ParamSpec, Self, overload
from weakref import WeakSet

import anyio
import anyio.to_thread

from sidecard_client._async.calls import AsyncInterpreter
from sidecard_client._async.connector import AsyncConnector
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.call.base_client import BaseClient
from sidecard_client.call.call import Backends, T
from sidecard_client.call.options import Options
from sidecard_client.call.wrapping import Perform, cached_function
from sidecard_client.metrics.client_metrics import ClientMetrics
from sidecard_client.protocol.socket_path import find_socket

P = ParamSpec("P")

AsyncStreamFunctions = (
    Callable[..., AsyncIterable[T] | Iterable[T] | Awaitable[AsyncIterable[T]]]
    | Backends[AsyncIterable[T] | Iterable[T] | Awaitable[AsyncIterable[T]]]
)

AsyncFunctions = Callable[..., Awaitable[T]] | Backends[Awaitable[T]]


class AsyncLifecycle(BaseClient, ClientMetrics):
    """Any number of concurrent calls, on asyncio and on trio. Needs no opening, and reconnects by itself.

    It may be made anywhere, also at module level, and used in any number of event loops, threads and forked children: each
    event loop has one connection, which ends with the loop. Plain functions run in threads.

    A call may be canceled at any time. If it waits, other callers keep waiting; if its function runs, the daemon gives
    the lease to the next waiter.
    """

    awaits: ClassVar = True

    def _open(self, path: str | None, timeout_seconds: float) -> None:
        self._init_metrics(lambda: BlockingConnection(path or find_socket(), timeout_seconds), timeout_seconds)
        self._connector = AsyncConnector(path, timeout_seconds)
        self._interpreter = AsyncInterpreter(self._connector)
        _clients.add(self)

    def __repr__(self) -> str:
        """Show the daemon's availability and the connections."""
        return f"<AsyncClient {self._connector!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of all event loops, and send the metrics and reports of hits that were not sent yet.

        From any task, thread or event loop, and any number of times. Calls that wait for the daemon continue without it, and
        the answers of running functions are not shared. A client that is used again opens itself again.
        """
        try:
            await self._connector.close()
        finally:
            if self._metrics_sender is not None or self._connector.views.in_use:
                # In a thread: the last batch and the last reports may take a second if the daemon hangs.
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._send_last)

    def _send_last(self) -> None:
        self._close_metrics()
        self._connector.views.close()

    def _leave_to_parent(self) -> None:
        self._connector.leave_to_parent()
        self._interpreter = AsyncInterpreter(self._connector)


class AsyncDecorator:
    """Decorator that `AsyncClient.cached` returns: makes a function awaitable and shares its calls."""

    def __init__(self, perform: Perform, options: Options) -> None:
        self._perform = perform
        self._options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that applies counts
        self, function: Callable[P, AsyncIterator[T]]
    ) -> Callable[P, AsyncIterator[T]]: ...

    @overload
    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate ``function``."""
        decorated: Callable[..., Any] = cached_function(self._perform, function, self._options, awaits=True)
        return decorated


_clients: WeakSet[AsyncLifecycle] = WeakSet()


def _restart_in_child() -> None:
    for client in list(_clients):
        client._leave_to_parent()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_restart_in_child)
