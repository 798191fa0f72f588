"""Thin client of the sidecard daemon, through which all processes of a host share LLM calls."""

import importlib
from typing import TYPE_CHECKING, Any

from sidecard_client.protocol.errors import (
    CallFailed,
    CallRejected,
    CallTimeout,
    DaemonUnavailable,
    ProtocolError,
    RequestRefused,
    SidecardError,
    SidecardWarning,
    UnkeyableRequest,
    UnshareableValue,
    WrongAnswers,
)
from sidecard_client.protocol.wire import Usage

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._async.streams import AsyncStream
    from sidecard_client._sync.client import Client
    from sidecard_client._sync.streams import Stream
    from sidecard_client.call.failures import default_classify
    from sidecard_client.call.outcome import Outcome
    from sidecard_client.http.sharing import share
    from sidecard_client.http.transports import AsyncSidecardTransport, SidecardTransport

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncSidecardTransport",
    "AsyncStream",
    "CallFailed",
    "CallRejected",
    "CallTimeout",
    "Client",
    "DaemonUnavailable",
    "Outcome",
    "ProtocolError",
    "RequestRefused",
    "SidecardError",
    "SidecardTransport",
    "SidecardWarning",
    "Stream",
    "UnkeyableRequest",
    "UnshareableValue",
    "Usage",
    "WrongAnswers",
    "__version__",
    "default_classify",
    "share",
]


if not TYPE_CHECKING:  # for a type checker, every name would exist
    _LATER = {
        "AsyncClient": "_async.client",
        "AsyncSidecardTransport": "http.transports",
        "AsyncStream": "_async.streams",
        "Client": "_sync.client",
        "Outcome": "call.outcome",
        "SidecardTransport": "http.transports",
        "Stream": "_sync.streams",
        "default_classify": "call.failures",
        "share": "http.sharing",
    }

    def __getattr__(name: str) -> Any:
        """Import a client on first use: the daemon needs none, and the blocking one needs no anyio."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

        try:
            module = importlib.import_module(f"{__name__}.{_LATER[name]}")
        except ModuleNotFoundError as error:
            if error.name != "anyio":
                raise

            raise ImportError("AsyncClient needs anyio: pip install 'sidecard-client[async]'") from error

        globals()[name] = getattr(module, name)
        return globals()[name]
