"""What can go wrong, by whose fault.

    Exception
    └── SidecardError
        ├── CallFailed                        the backend's: the call that this one waited for has failed
        ├── CallRejected                      the policy's: the daemon may not let this call happen
        ├── CallTimeout (TimeoutError)        the caller's: ``wait`` passed
        ├── RequestRefused                    the caller's: the daemon does not serve such a request
        ├── UnkeyableRequest (TypeError)      the caller's: no stable key can be made of the request
        ├── UnshareableValue (TypeError)      the caller's: the value would not come back equal
        ├── DaemonUnavailable (ConnectionError)  the host's: no daemon answers
        └── ProtocolError                     the daemon's: it said something that makes no sense
            └── FramingError                  either side's: the bytes are no frames (sans-I/O)

    UserWarning
    └── SidecardWarning                       something works, but not as well as it could

All of them survive pickling, because they cross process pools.
"""

import errno
import os
from collections.abc import Mapping
from typing import Any

from sidecard_client.protocol.wire import ErrorCode, FailureKind, RejectionReason

_DENIED = os.strerror(errno.EACCES)
_ADVICE_OF_REASON = {
    _DENIED: "Its settings socket.group and socket.mode, and its directory's mode, say who may connect.",
}
"""What to do where another daemon would not help. Both clients give the kernel's reason in strerror's words."""

_REJECTIONS: dict[RejectionReason, tuple[str, str]] = {
    "breaker_open": (
        "the breakers of its backends are open, because calls to them fail or are slow",
        "give it another backend, or have an operator look at `sidecard breakers`",
    ),
    "saturated": (
        "its backends have no room, and their queues are full",
        "give it another backend, or raise max_concurrent, max_queue or the rate limits of these",
    ),
    "sovereign": (
        "sovereign mode is on, and each of its backends is remote or may be",
        'give it one that is local: named "local", or with locality = "local" in the daemon\'s config',
    ),
    "budget": (
        "the budget of its task or backends is spent",
        "raise the budget, or give it a backend that costs nothing",
    ),
    "busy": ("the daemon's tables are full", 'raise its [limits], or use on_unavailable="fallback"'),
    "draining": ("the daemon is ending", 'start it again, or use on_unavailable="fallback"'),
    "not_cached": ("no answer is stored, and mode= is only_if_cached", 'use mode="use" to make the call'),
}
"""What happened, and what to change."""


class SidecardError(Exception):
    """Anything that this package raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception pickles by its args, which here are the finished sentence and not the constructor's.
        return _restore, (type(self), self.args, self.__dict__)


class CallFailed(SidecardError):
    """The call that this one waited for failed, with ``kind`` and ``message`` as its own caller reported them."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(f"The shared call failed ({kind}): {message or 'no reason was given'}")
        self.kind = kind
        self.message = message


class CallRejected(SidecardError):
    """The call may not be made, for ``reason``; after ``retry_after_seconds``, where known, it may.

    ``backends`` says why for each of the call's backends; it is empty where the reason is none of theirs.
    Of several reasons ``reason`` is the one that passes soonest.
    """

    def __init__(
        self,
        reason: RejectionReason,
        retry_after_seconds: float | None = None,
        backends: Mapping[str, str] | None = None,
    ) -> None:
        backends = dict(backends or {})
        each = ", ".join(f"{name}: {why}" for name, why in backends.items())
        details = f" ({each})" if each else ""
        later = "" if retry_after_seconds is None else f"try again in {round(retry_after_seconds, 1):g} s, or "
        happened, change = _REJECTIONS[reason]
        super().__init__(f"The call was rejected ({reason}): {happened}{details}; {later}{change}.")
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        self.backends: dict[str, str] = backends


class CallTimeout(SidecardError, TimeoutError):
    """Somebody else's call, or a place in a backend's queue, took longer than this caller would wait."""

    def __init__(self, waited_seconds: float) -> None:
        super().__init__(
            f"Waited {waited_seconds:.3g} s for somebody else's call, or for room at a backend; wait= says how long to."
        )
        self.waited_seconds = waited_seconds


class RequestRefused(SidecardError):
    """The daemon answered with an error; ``message`` says what to change."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"The daemon refused the request ({code}): {message}")
        self.code = code
        self.message = message


class UnkeyableRequest(SidecardError, TypeError):
    """No stable key can be made of a function or its arguments."""


class UnshareableValue(SidecardError, TypeError):
    """A value would not come back equal from msgpack, so it cannot be given to others."""


class DaemonUnavailable(SidecardError, ConnectionError):
    """No daemon answers at ``path``."""

    def __init__(self, path: str, reason: str) -> None:
        reason = reason.removeprefix(f"{path}: ")
        advice = _ADVICE_OF_REASON.get(reason, f"Start one: sidecard serve --socket {path}")
        super().__init__(f"No sidecard answers at {path} ({reason}). {advice}")
        self.path = path
        self.reason = reason


class ProtocolError(SidecardError):
    """The other side said something that makes no sense."""


class FramingError(ProtocolError):
    """Bytes that are no frames. ``code`` is the wire's; ``before`` is what the same bytes held that was still whole."""

    def __init__(self, code: ErrorCode, message: str, before: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.before = before


class SidecardWarning(UserWarning):
    """Something works, but not as well as it could."""


def _restore(kind: type[SidecardError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SidecardError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error
