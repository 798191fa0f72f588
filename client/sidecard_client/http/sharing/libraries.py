"""The HTTP clients of httpx and httpx2, recognized without importing either library."""

import sys
from typing import Any, Final

LIBRARIES: Final = ("httpx2", "httpx")


def http_client_classes() -> tuple[type, ...]:
    """Return the classes of both kinds of clients, of the libraries that the process has imported."""
    return tuple(getattr(sys.modules[name], kind) for name in LIBRARIES if name in sys.modules for kind in _KINDS)


def is_async(client: Any) -> bool:
    """Return whether an HTTP client is asynchronous."""
    return any(isinstance(client, sys.modules[name].AsyncClient) for name in LIBRARIES if name in sys.modules)


_KINDS: Final = ("Client", "AsyncClient")
