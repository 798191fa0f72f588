"""The two HTTP libraries, whose classes have the same names and share no base: httpx and httpx2; and `plain`, for others."""

import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sidecard_client.http.messages import plain

if TYPE_CHECKING:
    # Classes of httpx or of httpx2.
    Request = Any
    Response = Any


def default_library() -> ModuleType:
    """Return httpx2, else httpx."""
    for name in ("httpx2", "httpx"):
        with suppress(ImportError):
            return import_module(name)

    raise ImportError("Neither httpx2 nor httpx is installed. Install the one that your SDK uses, or pass inner=.")


def library_of(request: "Request") -> ModuleType:
    """Return the library of a request, also if its class is one that an SDK derives from the library's."""
    for kind in type(request).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in {"httpx", "httpx2"}:
            return sys.modules[package]

    if isinstance(request, plain.PlainRequest):
        return plain

    raise TypeError(
        f"a request must be one of httpx or httpx2, not {type(request).__module__}.{type(request).__name__}."
    )
