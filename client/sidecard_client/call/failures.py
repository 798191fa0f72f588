"""What an upstream call's exception means for the callers that wait for the same answer."""

from collections.abc import Callable
from typing import Any, cast, get_args

from msgspec import Raw

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.wire import MAX_DETAIL_BYTES, NO_VALUE, Fail, FailureKind
from sidecard_client.values.packing import pack_value

MAX_MESSAGE_CHARACTERS = 2000
"""Length of a failure's message. The wire allows 4096; nested causes add nothing beyond this."""

MAX_RETRY_AFTER_SECONDS = 86400.0

MIN_STATUS, MAX_STATUS = 100, 999
"""Range of the HTTP statuses that the wire takes."""

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
"""Faults of the program or of the request: the next caller would get the same."""

TIMEOUTS = frozenset(
    {
        ("anthropic", "APITimeoutError"),
        ("httpcore", "TimeoutException"),
        ("httpcore2", "TimeoutException"),
        ("httpx", "TimeoutException"),
        ("httpx2", "TimeoutException"),
        ("openai", "APITimeoutError"),
        ("requests", "Timeout"),
        ("trio", "TooSlowError"),
        ("urllib3", "TimeoutError"),
    }
)
"""Package and name of timeout exceptions that are no `TimeoutError`. Their subclasses count too."""

Classify = Callable[[BaseException], FailureKind]


def default_classify(error: BaseException) -> FailureKind:
    """Return the failure kind of an exception. The first matching row counts.

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

    kind = _own_kind_of(error)
    if kind is not None:
        return kind

    status = _status_of(error)
    if status is not None and status >= 400:  # noqa: PLR2004 - the HTTP class of client errors
        return "transient" if status >= 500 or status in TRANSIENT_STATUSES else "fatal"  # noqa: PLR2004 - as above

    if isinstance(error, OSError):
        return "transient"

    return "fatal" if isinstance(error, FATAL_TYPES) else "transient"


def kind_of(error: BaseException, classify: Classify) -> FailureKind:
    """Ask ``classify``; if it raises or returns no failure kind, `default_classify` decides.

    A faulty hook must not replace the upstream's own exception, which the caller is to get.
    """
    if classify is not default_classify and isinstance(error, Exception):
        try:
            kind: object = classify(error)
        except Exception:  # noqa: BLE001 - the boundary to the user's hook
            return default_classify(error)

        if isinstance(kind, str) and kind in FAILURE_KINDS:
            return cast("FailureKind", kind)

    return default_classify(error)


def message_of(error: BaseException) -> str:
    """Return ``Type: text``, shortened; only the type if ``__str__`` raises."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - foreign code, whose exception must not hide the first one
        return name

    message = f"{name}: {text}"[:MAX_MESSAGE_CHARACTERS] if text else name
    return message.encode("utf-8", "replace").decode()  # lone surrogates (os.fsdecode makes them) have no UTF-8 form


def fail(
    lease: str,
    error: BaseException,
    kind: FailureKind,
    *,
    another: bool = False,
    retry: bool = False,
    ttl_seconds: float | None = None,
) -> Fail:
    """Build the `Fail` that reports ``error`` to the daemon.

    ``another`` asks for the next backend; with ``retry`` that may be one that has failed.
    ``ttl_seconds`` asks the daemon to remember a ``fatal`` failure.

    An exception that has a ``kind`` of its own may also have a ``detail``, a plain value for the waiters; ``answered``, true if
    the backend did answer; and ``not_stored``, why that answer is neither stored nor shared.
    """
    own = _own_kind_of(error) is not None
    status = _status_of(error)
    return Fail(
        lease=lease,
        kind=kind,
        message=message_of(error),
        retry_after_seconds=retry_after_seconds_of(error),
        next=another,
        retry=retry,
        timeout=is_timeout(error),
        ttl_seconds=ttl_seconds,
        detail=packed_detail(error),
        status=status if status is not None and MIN_STATUS <= status <= MAX_STATUS else None,
        answered=own and getattr(error, "answered", False) is True,
        not_stored=getattr(error, "not_stored", "") if own else "",
    )


def _own_kind_of(error: BaseException) -> FailureKind | None:
    kind = getattr(error, "kind", None)
    return cast("FailureKind", kind) if isinstance(kind, str) and kind in FAILURE_KINDS else None


def packed_detail(error: BaseException) -> Raw:
    """Return the detail for the waiters of an exception with a ``kind``; empty if it cannot be sent."""
    detail = None if _own_kind_of(error) is None else getattr(error, "detail", None)
    if detail is None:
        return NO_VALUE

    try:
        packed = pack_value(detail)
    except UnshareableValue:
        return NO_VALUE

    return Raw(packed) if len(packed) <= MAX_DETAIL_BYTES else NO_VALUE


def is_timeout(error: BaseException) -> bool:
    """Return whether the caller's own timeout ended the call, which proves nothing about the backend.

    A `TimeoutError` (asyncio's and socket's are the same), an exception of `TIMEOUTS`, or urllib's with such a reason.
    An HTTP status, 408 and 504 included, is the backend's reply and no timeout of the caller.
    """
    if _status_of(error) is not None:
        return False

    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return True

    return any((kind.__module__.partition(".")[0], kind.__name__) in TIMEOUTS for kind in type(error).__mro__)


def retry_after_seconds_of(error: BaseException) -> float | None:
    """Return the retry delay in the headers of ``error.response``, or of ``error``; None without one.

    ``Retry-After-Ms`` (milliseconds, of OpenAI and Azure) is more precise than ``Retry-After`` and counts first. The
    latter is a number of seconds or a date. A date is compared with the response's own ``Date``, so that neither host's
    clock matters; without one, with this host's clock.
    """
    for carrier in (getattr(error, "response", None), error):
        headers = getattr(carrier, "headers", None)
        for seconds in (
            _number_in(headers, "retry-after-ms", 1000),
            _number_in(headers, "retry-after"),
            _date_in(headers),
        ):
            # NaN compares false with everything.
            if seconds is not None and 0 <= seconds <= MAX_RETRY_AFTER_SECONDS:
                return seconds

    return None


def _header(headers: Any, name: str) -> str | None:
    try:
        text = headers.get(name) or headers.get(name.title())
    except (AttributeError, TypeError, ValueError):  # no headers, or something else by that name
        return None

    return text if isinstance(text, str) else None


def _number_in(headers: Any, name: str, per_second: int = 1) -> float | None:
    text = _header(headers, name)
    try:
        return None if text is None else float(text) / per_second
    except ValueError:
        return None


def _date_in(headers: Any) -> float | None:
    text = _header(headers, "retry-after")
    if text is None:
        return None

    from datetime import UTC, datetime  # noqa: PLC0415 - rare, and slow to import
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - as above

    def instant(date: str) -> datetime:
        parsed = parsedate_to_datetime(date)
        return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)

    try:
        now_text = _header(headers, "date")
        now = datetime.now(UTC) if now_text is None else instant(now_text)
        return (instant(text) - now).total_seconds()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _status_of(error: BaseException) -> int | None:
    for carrier in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(carrier, name, None)
            if isinstance(status, int) and not isinstance(status, bool):
                return status

    return None
