"""Thin client of the sidecard daemon: LLM calls made once for all processes of a host."""

from typing import TYPE_CHECKING, Any

from sidecard_client.calls import Outcome
from sidecard_client.errors import (
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
)
from sidecard_client.failures import default_classify
from sidecard_client.sync import Client
from sidecard_client.wire import Usage

if TYPE_CHECKING:
    from sidecard_client.aio import AsyncClient

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "CallFailed",
    "CallRejected",
    "CallTimeout",
    "Client",
    "DaemonUnavailable",
    "Outcome",
    "ProtocolError",
    "RequestRefused",
    "SidecardError",
    "SidecardWarning",
    "UnkeyableRequest",
    "UnshareableValue",
    "Usage",
    "__version__",
    "default_classify",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that this makes

    def __getattr__(name: str) -> Any:
        """Import `AsyncClient` when it is asked for: it needs anyio, which the blocking client does not."""
        if name != "AsyncClient":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

        try:
            from sidecard_client.aio import AsyncClient  # noqa: PLC0415 - see above
        except ModuleNotFoundError as error:
            if error.name != "anyio":
                raise

            raise ImportError("AsyncClient needs anyio: pip install 'sidecard-client[async]'") from error

        globals()[name] = AsyncClient
        return AsyncClient
