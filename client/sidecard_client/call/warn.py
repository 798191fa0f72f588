"""Warnings to the app's developer: a faulty hook or an unshareable value never breaks a call.

A warning points at the line of the app that made the call, however many frames of sidecard, of an event loop or of an SDK lie
between. If no such line is known (a task was made of ``client.call(...)``; a thread finishes a stream), it points at the function
that was called. `warnings` shows it once per line and text, and may turn it into an error: it is issued where an exception
still gives the lease back.
"""

import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from sidecard_client.protocol.errors import SidecardWarning

MAX_WARNED: Final = 1000
"""How many subjects are remembered. The oldest are forgotten first; their warnings may then repeat."""

_HERE: Final = __name__.partition(".")[0]

_PASSED_THROUGH: Final = frozenset(
    {
        _HERE,
        "anyio",
        "asyncio",
        "concurrent",
        "contextlib",
        "functools",
        "outcome",
        "sniffio",
        "threading",
        "trio",
        "uvloop",
    }
)
"""Packages that call sidecard for the app."""

_HTTP: Final = frozenset({"httpcore", "httpcore2", "httpx", "httpx2"})
"""Packages that call a transport. What calls them is an SDK, or the app."""

_LOOPS: Final = ("asyncio.base_events", "asyncio.events", "asyncio.runners", "trio._core._run", "uvloop")
"""Modules below a task: what called them did not make this call."""

_warned_of: dict[str, None] = {}


def name_of_function(function: Any) -> str:
    """Return the name of a function in messages."""
    while isinstance(function, partial):
        function = function.func

    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def of(option: str, function: Callable[..., Any] | None) -> str:
    """Return an option with the function whose call it was given for."""
    return option if function is None else f"{option} of {name_of_function(function)}"


def agrees(
    option: str, hook: Callable[[Any], Any], value: Any, function: Callable[..., Any] | None, otherwise: str
) -> bool:
    """Ask a hook that says yes or no. If it fails, warn that the answer is ``otherwise``, and return False."""
    try:
        return bool(hook(value))
    except Exception as error:  # noqa: BLE001 - the boundary to the user's hook
        problem = type(error).__name__

    warn(
        f"{of(option, function)} failed ({problem}), so the answer is {otherwise}: return True or False for any value.",
        function,
    )
    return False


class Place(NamedTuple):
    """Where a warning points to."""

    variables: dict[str, Any]
    """Of the module."""
    file: str
    line: int


beside_caller: ContextVar[Place | None] = ContextVar("beside_caller", default=None)
"""In a task that runs a call beside its caller: the caller's line."""


def warn(message: str, function: Callable[..., Any] | None = None) -> None:
    """Warn the developer; ``function`` is what was called."""
    place = place_of_caller(function)
    if place is None:
        warnings.warn(message, SidecardWarning, stacklevel=2)
        return

    variables, file, line = place
    registry = variables.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, SidecardWarning, file, line, variables.get("__name__"), registry)


def warn_once(subject: str, message: str, function: Callable[..., Any] | None = None) -> None:
    """Warn once for each ``subject``."""
    if subject in _warned_of:
        return

    if len(_warned_of) >= MAX_WARNED:
        # Another thread may add or remove one meanwhile.
        _warned_of.pop(next(iter(list(_warned_of)), ""), None)

    _warned_of[subject] = None
    warn(message, function)


def place_of(function: Callable[..., Any]) -> str:
    """Return where a function was defined, as a subject: two functions of one name are two."""
    code = _code_of(function)
    name = name_of_function(function)
    return name if code is None else f"{name} {code.co_filename}:{code.co_firstlineno}"


def place_of_caller(function: Callable[..., Any] | None = None) -> Place | None:
    """Return the line of the app; if none is known, that of ``function``; else that of an event loop."""
    frame = _frame_of_caller()
    if frame is not None and not _is_loop(frame):
        return _place_at(frame)

    place = beside_caller.get()
    code = _code_of(function)
    if place is None and code is not None:
        place = Place(_variables_of(function), code.co_filename, code.co_firstlineno)

    return place if place is not None or frame is None else _place_at(frame)


def _place_at(frame: FrameType) -> Place:
    return Place(frame.f_globals, frame.f_code.co_filename, frame.f_lineno)


def _frame_of_caller() -> FrameType | None:
    """Return the frame of the app; one of an event loop if only that is known."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - `inspect` takes longer to import than the rest of the client
    below_http = False
    found = None
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if _is_loop(frame):
            return found or frame

        if package in _HTTP:
            below_http = True
        elif package not in _PASSED_THROUGH:
            found = found or frame
            if not below_http or not _is_installed(frame.f_code.co_filename):
                return frame

        frame = frame.f_back

    return found


def _is_loop(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_LOOPS)


def _is_installed(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file


def _plain(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func

    function = getattr(function, "__func__", function)
    return function if hasattr(function, "__code__") else getattr(type(function), "__call__", None)  # noqa: B004 - its code


def _code_of(function: Any) -> CodeType | None:
    code = getattr(_plain(function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _variables_of(function: Any) -> dict[str, Any]:
    variables = getattr(_plain(function), "__globals__", None)
    return variables if isinstance(variables, dict) else {}
