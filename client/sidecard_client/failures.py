"""What the exception of an upstream call means for those who wait for the same answer."""

from collections.abc import Callable
from typing import cast, get_args

from sidecard_client.wire import Fail, FailureKind

MAX_MESSAGE_CHARACTERS = 2000
"""Of a failure's message. The wire allows 4096; a stack of nested causes says nothing new after that."""

MAX_RETRY_AFTER_SECONDS = 86400.0

FAILURE_KINDS = frozenset(get_args(FailureKind))

TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 that may pass. The OpenAI and Anthropic SDKs retry 408, 409, 429 and >= 500 too."""

FATAL_TYPES = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    NameError,
    AssertionError,
    NotImplementedError,
    ArithmeticError,
    ImportError,
)
"""Faults of the program or of the request: the next caller would meet the same."""

Classify = Callable[[BaseException], FailureKind]


def default_classify(error: BaseException) -> FailureKind:
    """Name the kind of a failed call. The first row that applies counts.

    ==============================================================  ===========
    exception                                                       kind
    ==============================================================  ===========
    not an `Exception` (`KeyboardInterrupt`, cancellation), or
    named ``CancelledError``                                        cancelled
    has a ``kind`` of these (a nested call's `CallFailed`)          that kind
    carries an HTTP status 408, 409, 425, 429 or >= 500             transient
    carries another HTTP status >= 400                              fatal
    `OSError`, with `TimeoutError` and `ConnectionError`            transient
    `FATAL_TYPES`                                                   fatal
    any other                                                       transient
    ==============================================================  ===========

    The status is an int in ``status_code``, ``status`` or ``response.status_code``,
    which covers the OpenAI, Anthropic and Ollama SDKs, httpx, requests, aiohttp and urllib.
    """
    if not isinstance(error, Exception) or type(error).__name__ == "CancelledError":
        return "cancelled"

    kind = getattr(error, "kind", None)
    if isinstance(kind, str) and kind in FAILURE_KINDS:
        return cast("FailureKind", kind)

    status = _status_of(error)
    if status is not None and status >= 400:  # noqa: PLR2004 - the HTTP class of client errors
        return "transient" if status >= 500 or status in TRANSIENT_STATUSES else "fatal"  # noqa: PLR2004 - as above

    if isinstance(error, OSError):
        return "transient"

    return "fatal" if isinstance(error, FATAL_TYPES) else "transient"


def kind_of(error: BaseException, classify: Classify) -> FailureKind:
    """Ask ``classify``; where it raises or answers nonsense, `default_classify` decides.

    This is the boundary to the user's hook: the upstream's own exception is on its way to its caller,
    and a faulty hook must not take its place.
    """
    if classify is not default_classify and isinstance(error, Exception):
        try:
            kind: object = classify(error)
        except Exception:  # noqa: BLE001 - the boundary named above
            return default_classify(error)

        if isinstance(kind, str) and kind in FAILURE_KINDS:
            return cast("FailureKind", kind)

    return default_classify(error)


def message_of(error: BaseException) -> str:
    """Return ``Type: text``, shortened; a ``__str__`` that raises leaves the type alone."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - foreign code again, and its own fault must not hide the first one
        return name

    message = f"{name}: {text}"[:MAX_MESSAGE_CHARACTERS] if text else name
    return message.encode("utf-8", "replace").decode()  # lone surrogates (os.fsdecode makes them) have no UTF-8 form


def fail(request_id: int, lease: str, error: BaseException, kind: FailureKind, *, another: bool = False) -> Fail:
    """Build the `Fail` that tells the daemon of ``error``; ``another`` asks for the next backend."""
    return Fail(
        id=request_id,
        lease=lease,
        kind=kind,
        message=message_of(error),
        retry_after_seconds=retry_after_seconds_of(error),
        next=another,
    )


def retry_after_seconds_of(error: BaseException) -> float | None:
    """Read a numeric ``Retry-After`` from ``error.response.headers``; None where there is none, or a date."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None

    try:
        seconds = float(headers.get("retry-after") or headers.get("Retry-After"))
    except (TypeError, ValueError, AttributeError):
        return None

    # NaN compares false with everything.
    return seconds if 0 <= seconds <= MAX_RETRY_AFTER_SECONDS else None


def _status_of(error: BaseException) -> int | None:
    for carrier in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(carrier, name, None)
            if isinstance(status, int) and not isinstance(status, bool):
                return status

    return None
