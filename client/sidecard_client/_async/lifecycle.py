"""How an asynchronous client is opened and closed, and how it decorates. The calls themselves are in `client`."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, overload

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

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

P = ParamSpec("P")

AsyncStreamFunctions = (
    Callable[..., AsyncIterable[T] | Iterable[T] | Awaitable[AsyncIterable[T]]]
    | Backends[AsyncIterable[T] | Iterable[T] | Awaitable[AsyncIterable[T]]]
)

AsyncFunctions = Callable[..., Awaitable[T]] | Backends[Awaitable[T]]


class AsyncLifecycle(BaseClient, ClientMetrics):
    """Any number of concurrent calls over one connection, on asyncio and on trio. Reconnects by itself.

    It belongs to the event loop in which it was opened; any task of that loop may use it. In another loop or thread, and in
    the child of a fork, its methods raise `RuntimeError`: make another client there. Plain functions run in threads.

    A call may be canceled at any time. If it waits, other callers go on waiting; if its function runs, the daemon passes the
    call to the next waiter. When the client is closed, calls that still wait raise `RuntimeError`; functions that still run
    go on, and their answers are not shared.
    """

    _awaits: ClassVar = True

    def _open(self, path: str | None, timeout_seconds: float) -> None:
        self._init_metrics(lambda: BlockingConnection(path or find_socket(), timeout_seconds), timeout_seconds)
        self._connector = AsyncConnector(path, timeout_seconds)
        self._interpreter = AsyncInterpreter(self._connector)
        self._tasks: TaskGroup | None = None

    def __repr__(self) -> str:
        """Show the daemon's availability and the connection."""
        return f"<AsyncClient {self._connector!r}>"

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("This client was opened before: make a new one.")

        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._connector.open(self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        tasks = self._tasks
        assert tasks is not None  # noqa: S101 - left only after it was entered; for the type checker
        try:
            await self._connector.close()
            if self._metrics_sender is not None:
                # In a thread: the last batch may take half a second if the daemon hangs.
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._close_metrics)
        finally:
            tasks.cancel_scope.cancel()
            # The task group is the client's own, so the body's exceptions are raised as they are and not in a group. Only a
            # cancellation is passed to the group, because only the group knows whether it caused it.
            if not isinstance(error, anyio.get_cancelled_exc_class()):
                kind, error, traceback = None, None, None

            swallow = await tasks.__aexit__(kind, error, traceback)

        return swallow and error is not None


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
    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]: ...

    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, Awaitable[T]]: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate ``function``."""
        decorated: Callable[..., Any] = cached_function(self._perform, function, self._options, awaits=True)
        return decorated
