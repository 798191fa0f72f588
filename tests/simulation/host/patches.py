"""Patch the clients' modules, and the sizes of buffers: clock, sockets and threads are a world's for a while."""

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sidecard.core.cache.view import views as daemon_views
from sidecard.core.flights import streams
from sidecard.server import buffers, driver, peer_output
from sidecard.server import connection as daemon_connection
from sidecard_client._async import calls as async_calls
from sidecard_client._async import connection as async_connection
from sidecard_client._async import connector as async_connector
from sidecard_client._async import streams as async_streams
from sidecard_client._async import unix_socket
from sidecard_client._sync import calls as sync_calls
from sidecard_client._sync import connection as sync_connection
from sidecard_client._sync import connector as sync_connector
from sidecard_client._sync import heartbeat, held_streams
from sidecard_client._sync import streams as sync_streams
from sidecard_client.call import conversation, local_flights
from sidecard_client.call import streams as call_streams
from sidecard_client.metrics import client_metrics
from sidecard_client.protocol.errors import SidecardWarning
from sidecard_client.view import attachment, keeper
from sidecard_client.view import views as client_views
from tests.simulation.host import views
from tests.simulation.host.processes import Process, monotonic
from tests.simulation.host.sockets import SOCKET_MODULE, Socket
from tests.simulation.host.threads import THREADING_MODULE, Doorbell


def _no_impostor(*_: object) -> None:
    """Find no impostor."""


def _pass_descriptor(connection: int, data: bytes, descriptor: int) -> int:
    """Pass a descriptor on a connection of the daemon whose turn it is."""
    daemon: Any = Process.current
    sent: int = daemon.pass_descriptor(connection, data, descriptor)
    return sent


def _even() -> float:
    """Replace draws from the system's randomness."""
    return 0.5


_PLACES: list[tuple[Any, str, Any]] = [
    *(
        (module, "monotonic", monotonic)
        for module in (async_calls, async_connection, async_connector, async_streams, call_streams, conversation)
    ),
    *(
        (module, "monotonic", monotonic)
        for module in (heartbeat, sync_connector, sync_calls, sync_streams, held_streams)
    ),
    *(
        (module, "threading", THREADING_MODULE)
        for module in (
            sync_connection,
            heartbeat,
            client_metrics,
            local_flights,
            sync_connector,
            sync_calls,
            held_streams,
        )
    ),
    *((module, "socket", SOCKET_MODULE) for module in (unix_socket, async_connection, sync_connection)),
    (unix_socket, "UnixSocket", Socket),
    (heartbeat, "Doorbell", Doorbell),
    (keeper.ViewKeeper, "_start", views.start_keeper),
    *((module, "monotonic", monotonic) for module in (attachment, keeper, client_views)),
    *((module, "threading", THREADING_MODULE) for module in (attachment, keeper)),
    (keeper, "Doorbell", Doorbell),
    (attachment, "attach", views.attach),
    (attachment, "ViewReader", views.CheckedReader),
    *((module, "inode_of", views.inode_of) for module in (attachment, sync_connection)),
    (attachment, "_mark", views.mark),
    (attachment, "select", views.SELECT_MODULE),
    (attachment, "socket", SOCKET_MODULE),
    (daemon_views, "MIN_VIEW_BYTES", views.SMALL_VIEW_BYTES),
    *((module, "impostor", _no_impostor) for module in (unix_socket, sync_connection)),
    (sync_connector, "_jitter", _even),
    # Small, as the pipes are, so that slow readers are frequent.
    (daemon_connection, "HIGH_WATER_BYTES", 1000),
    (daemon_connection, "COUNTED_BYTES", 500),
    (daemon_connection, "LOW_WATER_BYTES", 125),
    (peer_output, "pass_descriptor", _pass_descriptor),
    (peer_output, "HIGH_WATER_BYTES", 1000),
    (peer_output, "COUNTED_BYTES", 500),
    (buffers, "COUNTED_BYTES", 500),
    (streams, "WINDOW_BYTES", 200),
    # Small, so that work in batches and deliveries in turns are frequent.
    (streams, "WINDOW_CHUNKS", 3),
    (driver, "MAX_DELIVERIES", 1),
    (async_connector, "random", SimpleNamespace(random=_even)),
]


@contextmanager
def simulated() -> Iterator[None]:
    """Run the clients simulated. The garbage collector is off: its finalizers would run at moments that no script chose."""
    logger = logging.getLogger("sidecard_client")
    was_disabled, logger.disabled = logger.disabled, True
    gc.disable()
    gc.freeze()  # what is there by now need not be looked at between two lives, nor by later tests
    try:
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=SidecardWarning)
            for module, name, value in _PLACES:
                stack.enter_context(patch.object(module, name, value))

            yield
    finally:
        logger.disabled = was_disabled
        gc.enable()
