"""How a blocking client is opened, closed, forked, and how it decorates. The calls themselves are in `client`."""

import os
from collections.abc import Callable, Iterable
from typing import ParamSpec, Self, cast
from weakref import WeakSet

from sidecard_client._sync.calls import Interpreter
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client._sync.connector import Connector
from sidecard_client.call.base_client import BaseClient
from sidecard_client.call.call import Backends, T
from sidecard_client.call.options import Options
from sidecard_client.call.wrapping import Perform, cached_function
from sidecard_client.metrics.client_metrics import ClientMetrics
from sidecard_client.protocol.socket_path import find_socket

P = ParamSpec("P")

StreamFunctions = Callable[..., Iterable[T]] | Backends[Iterable[T]]


class Lifecycle(BaseClient, ClientMetrics):
    """Thread-safe, fork-safe, and reconnecting by itself. Calls run in their callers' threads."""

    def _open(self, path: str | None, timeout_seconds: float) -> None:
        self._init_metrics(lambda: BlockingConnection(path or find_socket(), timeout_seconds), timeout_seconds)
        self._connector = Connector(path, timeout_seconds)
        self._interpreter = Interpreter(self._connector)
        _clients.add(self)

    def __repr__(self) -> str:
        """Show the daemon's availability and the connections."""
        return f"<Client {self._connector!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections, and those of running calls when these end. Later requests raise `RuntimeError`.

        Sends the metrics and reports the hits that were not sent yet, which takes at most a second if the daemon hangs.
        """
        self._close_metrics()
        self._connector.close()

    def _leave_to_parent(self) -> None:
        self._connector.leave_to_parent()
        self._interpreter = Interpreter(self._connector)


class Decorator:
    """Decorator that `Client.cached` returns: the calls of the function are shared."""

    def __init__(self, perform: Perform, options: Options) -> None:
        self._perform = perform
        self._options = options

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate ``function``."""
        return cast("Callable[P, T]", cached_function(self._perform, function, self._options, awaits=False))


_clients: WeakSet[Lifecycle] = WeakSet()


def _restart_in_child() -> None:
    for client in list(_clients):
        client._leave_to_parent()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_restart_in_child)
