"""All exceptions of the client, grouped by fault.

    Exception
    └── SidecardError
        ├── CallFailed                          the backend: the call that this one waited for failed
        ├── CallRejected                        the policy: the daemon does not permit the call
        ├── CallTimeout (TimeoutError)          the caller: ``wait`` passed
        ├── RequestRefused                      the caller: the daemon does not serve the request
        ├── UnkeyableRequest (TypeError)        the caller: the request has no stable key
        ├── UnshareableValue (TypeError)        the caller: another process would not get the same value
        ├── UnreadableAnswer (ValueError)       the caller: the answer has another type than is expected
        ├── WrongAnswers (ValueError)           the caller: a batch's function returned no answer for each input
        ├── DaemonUnavailable (ConnectionError)  the host: no daemon replies
        └── ProtocolError                       the daemon: its reply violates the protocol
            └── FramingError                    either side: its bytes violate the framing

    UserWarning
    └── SidecardWarning                         the call works, but is not shared or stored as it could be

All of them survive pickling, because they cross process pools.
"""

import errno
import os
from collections.abc import Mapping
from typing import Any

from sidecard_client.protocol.wire import ErrorCode, FailureKind, RejectionReason

_HANGS = "It hangs or is stopped: `sidecard ping` examines it; restart it."

_ADVICE_ON_REASON = {
    "the daemon does not answer": _HANGS,
    "the daemon does not read": _HANGS,
    os.strerror(errno.EACCES): "socket.group, socket.mode and its directory's mode decide which users may connect.",
}
"""What to change if another daemon would not help, by the reason of the kernel or of the client."""

_REJECTIONS: dict[RejectionReason, tuple[str, str]] = {
    "breaker_open": (
        "the breakers of its backends are open, because calls to them fail or are slow",
        "add another backend, or ask an operator to check `sidecard breakers`",
    ),
    "saturated": (
        "its backends and their queues are full",
        "add another backend, or raise their max_concurrent, max_queue or rate limits",
    ),
    "sovereign": (
        "sovereign mode is on, and none of the call's backends is known to be local",
        'add a backend named "local", or one with locality = "local" in the daemon\'s config',
    ),
    "budget": (
        "a budget of its task or backends is spent, or too small for the expected cost",
        "raise the budget, or add a backend without cost",
    ),
    "busy": (
        "the daemon's tables are full",
        'raise limits.max_flights, flights.max_waiters or cache.max_bytes (for streams), or use on_unavailable="fallback"',
    ),
    "draining": ("the daemon is shutting down", 'restart it, or use on_unavailable="fallback"'),
    "not_cached": ("no answer is stored, and mode= is only_if_cached", 'use mode="use" to make the call'),
}
"""Why a call is rejected, and what to change."""


class SidecardError(Exception):
    """Base of all exceptions of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception pickles its args, which are the finished sentence here, not the constructor's arguments.
        return _restore, (type(self), self.args, self.__dict__)


class CallFailed(SidecardError):
    """The call that this one waited for failed; its holder reported ``kind``, ``message`` and perhaps a ``detail``."""

    def __init__(self, kind: FailureKind, message: str, detail: Any = None) -> None:
        super().__init__(f"The shared call failed ({kind}): {message or 'its holder gave no reason'}")
        self.kind: FailureKind = kind
        self.message = message
        self.detail = detail


class CallRejected(SidecardError):
    """The daemon does not permit the call, for ``reason``, until ``retry_after_seconds`` if that is known.

    ``backends`` has the reason of each of the call's backends, and is empty if they are not the cause.
    Of several reasons, ``reason`` is the one expected to end first. ``status`` is the HTTP status with which a backend asked
    for the pause, if its caller reported one.
    """

    def __init__(
        self,
        reason: RejectionReason,
        retry_after_seconds: float | None = None,
        backends: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        backends = dict(backends or {})
        each = ", ".join(f"{name}: {why}" for name, why in backends.items())
        details = f" ({each})" if each else ""
        later = "" if retry_after_seconds is None else f"try again in {round(retry_after_seconds, 1):g} s, or "
        happened, change = _REJECTIONS[reason]
        super().__init__(f"The call was rejected ({reason}): {happened}{details}; {later}{change}.")
        self.reason: RejectionReason = reason
        self.retry_after_seconds = retry_after_seconds
        self.backends: dict[str, str] = backends
        self.status = status


class CallTimeout(SidecardError, TimeoutError):
    """Another caller's call, or a backend's queue, took longer than ``wait``."""

    def __init__(self, waited_seconds: float) -> None:
        super().__init__(
            f"No answer within {waited_seconds:.3g} s from another caller's call or a backend's queue. Raise wait= to wait longer."
        )
        self.waited_seconds = waited_seconds


class RequestRefused(SidecardError):
    """The daemon replied with an error; ``message`` says what to change."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"The daemon refused the request ({code}): {message}")
        self.code = code
        self.message = message


class UnkeyableRequest(SidecardError, TypeError):
    """A function or its arguments have no stable key."""


class UnshareableValue(SidecardError, TypeError):
    """Other callers would not receive the same value."""


class UnreadableAnswer(SidecardError, ValueError):
    """An answer is not of the type that the call expects."""


class WrongAnswers(SidecardError, ValueError):
    """The function of a batch did not return a list with one answer for each input."""


class DaemonUnavailable(SidecardError, ConnectionError):
    """No daemon replies at ``path``, for ``reason``; ``advice`` says what to change, if the reason alone does not imply it."""

    def __init__(self, path: str, reason: str, advice: str = "") -> None:
        reason = reason.removeprefix(f"{path}: ")
        advice = advice or _ADVICE_ON_REASON.get(reason, f"Start one: sidecard serve --socket {path}")
        super().__init__(f"Cannot reach a daemon at {path}: {reason}. {advice}")
        self.path = path
        self.reason = reason


class ProtocolError(SidecardError):
    """The other side violated the protocol; the connection is unusable."""


class FramingError(ProtocolError):
    """Bytes that are not frames. ``code`` is the wire's; ``before`` holds the valid messages that precede them."""

    def __init__(self, code: ErrorCode, message: str, before: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.before = before


class SidecardWarning(UserWarning):
    """The call works, but is not shared or stored as it could be."""


def _restore(kind: type[SidecardError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SidecardError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error
