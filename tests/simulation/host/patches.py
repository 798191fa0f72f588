"""Patch the clients' modules, and the sizes of buffers: clock, sockets and threads are a world's for a while."""

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sidecard.core.flights import streams
from sidecard.server import buffers
from sidecard.server import connection as peer
from sidecard_client._async import calls as aio_calls
from sidecard_client._async import connection as aio_link
from sidecard_client._async import connector as aio_reach
from sidecard_client._async import streams as aio_stream
from sidecard_client._sync import calls as runner
from sidecard_client._sync import connection as channel
from sidecard_client._sync import connector as pool
from sidecard_client._sync import heartbeat
from sidecard_client._sync import streams as sync_stream
from sidecard_client.call import conversation
from sidecard_client.call import local_flights as local
from sidecard_client.call import streams as streaming
from sidecard_client.metrics import client_metrics as instruments
from sidecard_client.protocol.errors import SidecardWarning
from tests.simulation.host.processes import monotonic
from tests.simulation.host.sockets import SOCKET_MODULE
from tests.simulation.host.threads import THREADING_MODULE


def _no_impostor(*_: object) -> None:
    """Find no impostor."""


def _even() -> float:
    """Replace draws from the system's randomness."""
    return 0.5


_PLACES: list[tuple[Any, str, Any]] = [
    *(
        (module, "monotonic", monotonic)
        for module in (aio_calls, aio_link, aio_reach, aio_stream, streaming, conversation)
    ),
    *((module, "monotonic", monotonic) for module in (heartbeat, pool, runner, sync_stream)),
    *(
        (module, "threading", THREADING_MODULE)
        for module in (channel, heartbeat, instruments, local, pool, runner, sync_stream)
    ),
    *((module, "socket", SOCKET_MODULE) for module in (aio_link, channel)),
    *((module, "impostor", _no_impostor) for module in (aio_link, channel)),
    (pool, "_jitter", _even),
    # Small, as the pipes are, so that slow readers are frequent.
    (peer, "HIGH_WATER_BYTES", 1000),
    (peer, "COUNTED_BYTES", 500),
    (peer, "LOW_WATER_BYTES", 125),
    (buffers, "COUNTED_BYTES", 500),
    (streams, "WINDOW_BYTES", 200),
    (aio_reach, "random", SimpleNamespace(random=_even)),
]


@contextmanager
def simulated() -> Iterator[None]:
    """Run the clients simulated. The garbage collector is off: its finalizers would run at moments that no script chose."""
    logger = logging.getLogger("sidecard_client")
    was_disabled, logger.disabled = logger.disabled, True
    gc.disable()
    gc.freeze()  # what is there by now need not be looked at between two lives
    try:
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=SidecardWarning)
            for module, name, value in _PLACES:
                stack.enter_context(patch.object(module, name, value))

            yield
    finally:
        logger.disabled = was_disabled
        gc.unfreeze()
        gc.enable()
