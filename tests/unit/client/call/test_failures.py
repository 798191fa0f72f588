"""What an exception means for the waiters."""

import asyncio
import concurrent.futures
import email.utils
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message
from types import SimpleNamespace
from typing import Any

import httpcore2
import httpx2
import pytest
import trio

from sidecard_client import CallFailed, CallRejected, CallTimeout
from sidecard_client.call.failures import (
    MAX_MESSAGE_CHARACTERS,
    default_classify,
    fail,
    is_timeout,
    kind_of,
    message_of,
    retry_after_seconds_of,
)
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import MAX_DETAIL_BYTES
from sidecard_client.values.codec import unpack_value


class StatusError(Exception):
    """An SDK's exception with a status."""

    def __init__(self, **fields: Any) -> None:
        super().__init__("status")
        self.__dict__.update(fields)


TABLE: list[tuple[BaseException, wire.FailureKind]] = [
    (KeyboardInterrupt(), "cancelled"),
    (SystemExit(), "cancelled"),
    (GeneratorExit(), "cancelled"),
    (asyncio.CancelledError(), "cancelled"),
    (concurrent.futures.CancelledError(), "cancelled"),
    (CallFailed("fatal", "nested"), "fatal"),
    (CallFailed("transient", "nested"), "transient"),
    (CallRejected("busy"), "transient"),
    (StatusError(status_code=408), "transient"),
    (StatusError(status_code=409), "transient"),
    (StatusError(status_code=425), "transient"),
    (StatusError(status=429), "transient"),
    (StatusError(status_code=500), "transient"),
    (StatusError(response=SimpleNamespace(status_code=503)), "transient"),
    (StatusError(status_code=400), "fatal"),
    (StatusError(status=404), "fatal"),
    (StatusError(response=SimpleNamespace(status_code=422)), "fatal"),
    (StatusError(status_code="400"), "transient"),
    (StatusError(status_code=True), "transient"),
    (StatusError(status_code=302), "transient"),
    (urllib.error.HTTPError("u", 400, "bad", Message(), None), "fatal"),
    (urllib.error.HTTPError("u", 502, "bad", Message(), None), "transient"),
    (TimeoutError(), "transient"),
    (ConnectionResetError(), "transient"),
    (OSError(5, "io"), "transient"),
    (ValueError(), "fatal"),
    (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), "fatal"),
    (TypeError(), "fatal"),
    (KeyError(), "fatal"),
    (IndexError(), "fatal"),
    (AttributeError(), "fatal"),
    (AssertionError(), "fatal"),
    (NotImplementedError(), "fatal"),
    (ZeroDivisionError(), "fatal"),
    (RuntimeError(), "transient"),
    (StatusError(kind="no kind of ours"), "transient"),
    (StatusError(), "transient"),
]


@pytest.mark.parametrize(
    ("error", "kind"), TABLE, ids=[f"{number}-{type(row[0]).__name__}" for number, row in enumerate(TABLE)]
)
def test_default_classify_follows_its_table(error: BaseException, kind: str) -> None:
    """Each row of the documented table holds."""
    assert default_classify(error) == kind


def test_kind_of_asks_the_hook() -> None:
    """The user's hook overrides the default."""
    assert kind_of(ValueError(), lambda _error: "transient") == "transient"


def test_kind_of_ignores_a_hook_that_raises_or_returns_no_kind() -> None:
    """A faulty hook does not replace the upstream's exception."""

    def raises(_error: BaseException) -> wire.FailureKind:
        raise RuntimeError("hook")

    assert kind_of(ValueError(), raises) == "fatal"
    assert kind_of(ValueError(), lambda _error: "who knows") == "fatal"  # type: ignore[arg-type,return-value]  # the nonsense
    assert kind_of(ValueError(), lambda _error: None) == "fatal"  # type: ignore[arg-type,return-value]  # as above


def test_kind_of_does_not_ask_about_interruptions() -> None:
    """Ctrl-C counts as a cancellation, not as a failure."""
    assert kind_of(KeyboardInterrupt(), lambda _error: "fatal") == "cancelled"


def test_message_of_names_the_type_and_cuts_the_text() -> None:
    """A message fits the wire's field, whatever the exception's text."""
    assert message_of(ValueError("bad prompt")) == "ValueError: bad prompt"
    assert message_of(ValueError()) == "ValueError"
    assert len(message_of(ValueError("x" * 10_000))) == MAX_MESSAGE_CHARACTERS


def test_message_of_an_exception_that_cannot_be_printed() -> None:
    """A ``__str__`` that raises leaves the type's name."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert message_of(MuteError()) == "MuteError"


def test_message_of_text_without_a_utf_8_form_can_be_sent() -> None:
    """A lone surrogate becomes a question mark instead of an encoding error in place of the user's own."""
    assert message_of(ValueError("a\udc80b")) == "ValueError: a?b"
    wire.pack(fail("l", ValueError("a\udc80b"), "fatal"))


def test_fail_carries_kind_message_delay_and_requests() -> None:
    """The daemon gets everything it needs for its decision."""
    error = StatusError(response=SimpleNamespace(headers={"retry-after": "7"}))
    assert fail("b.1", error, "transient", another=True) == wire.Fail(
        lease="b.1", kind="transient", message="StatusError: status", retry_after_seconds=7.0, next=True
    )
    assert fail("b.1", TimeoutError(), "transient", another=True, retry=True) == wire.Fail(
        lease="b.1", kind="transient", message="TimeoutError", next=True, retry=True, timeout=True
    )


def foreign(module: str, name: str, *, status: int | None = None) -> BaseException:
    """Make an exception whose class descends from ``module``'s ``name``, as an SDK's own do."""
    base = type(name, (Exception,), {"__module__": module})
    error: BaseException = type("Own", (base,), {"__module__": "other"})()
    if status is not None:
        error.status_code = status  # type: ignore[attr-defined]  # as SDKs do

    return error


@pytest.mark.parametrize(
    ("error", "timeout"),
    [
        (TimeoutError(), True),
        (concurrent.futures.TimeoutError(), True),
        (TimeoutError("timed out"), True),
        (CallTimeout(3.0), True),
        (urllib.error.URLError(TimeoutError()), True),
        (trio.TooSlowError(), True),
        (httpx2.ReadTimeout("slow"), True),
        (httpx2.ConnectTimeout("slow"), True),
        (httpcore2.ReadTimeout("slow"), True),
        (foreign("httpx", "TimeoutException"), True),
        (foreign("httpcore", "TimeoutException"), True),
        (foreign("requests.exceptions", "Timeout"), True),
        (foreign("openai", "APITimeoutError"), True),
        (foreign("anthropic._exceptions", "APITimeoutError"), True),
        (foreign("urllib3.exceptions", "TimeoutError"), True),
        (foreign("openai", "APITimeoutError", status=504), False),
        (foreign("mine", "APITimeoutError"), False),
        (foreign("openai", "APIConnectionError"), False),
        (urllib.error.HTTPError("u", 408, "slow", Message(), None), False),
        (StatusError(response=SimpleNamespace(status_code=504)), False),
        (urllib.error.URLError("no route"), False),
        (httpx2.ConnectError("refused"), False),
        (ConnectionError(), False),
        (ValueError("timeout"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_is_timeout(error: BaseException, timeout: bool) -> None:
    """Timeouts of every library count as the caller's own; an HTTP status is the backend's reply."""
    assert is_timeout(error) is timeout


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1.5"}, 1.5),
        ({"Retry-After": "2"}, 2.0),
        ({"retry-after-ms": "250", "retry-after": "2"}, 0.25),
        ({"Retry-After-Ms": "1500"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "-1", "retry-after": "2"}, 2.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:30 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 08:27:30 +0100"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 -0000", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:01 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "yesterday"}, None),
        ({"retry-after": "Wed, 21 Oct 1998 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": 3}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
        (None, None),
        ("no mapping", None),
    ],
)
def test_retry_after_seconds_of(headers: object, seconds: float | None) -> None:
    """Numbers and dates are read from the response's or the exception's headers; invalid values are ignored."""
    assert retry_after_seconds_of(StatusError(response=SimpleNamespace(headers=headers))) == seconds
    assert retry_after_seconds_of(StatusError(headers=headers)) == seconds


def test_retry_after_seconds_of_a_date_without_the_responses_own() -> None:
    """Without the response's own date, this host's clock counts."""
    then = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    seconds = retry_after_seconds_of(StatusError(headers={"retry-after": then}))
    assert seconds is not None
    assert 500 < seconds <= 600


def test_retry_after_seconds_of_an_exception_without_a_response() -> None:
    """Most exceptions have none."""
    assert retry_after_seconds_of(ValueError()) is None


class Refused(Exception):
    """An exception that says how it is reported."""

    kind = "ignored"

    def __init__(self, detail: Any, **attributes: Any) -> None:
        super().__init__("refused")
        self.detail = detail
        vars(self).update(attributes)


def test_an_exception_with_a_kind_reports_what_else_it_carries() -> None:
    """The waiters get its detail; the daemon counts the answer, and why it is not stored."""
    message = fail("l", Refused({"status": 400}, answered=True, not_stored="dialect"), "ignored")
    assert unpack_value(bytes(message.detail)) == {"status": 400}
    assert (message.answered, message.not_stored) == (True, "dialect")


def test_attributes_of_foreign_exceptions_are_not_reported() -> None:
    """`detail` is a common name: without a kind of its own, an exception does not mean the waiters."""
    error = Refused({"secret": 1}, kind="not a kind", answered=True, not_stored="dialect")
    message = fail("l", error, "transient")
    assert (bytes(message.detail), message.answered, message.not_stored) == (b"", False, "")


@pytest.mark.parametrize("detail", [None, object(), "x" * MAX_DETAIL_BYTES])
def test_a_detail_that_cannot_be_sent_is_left_out(detail: Any) -> None:
    """The failure is reported all the same."""
    assert bytes(fail("l", Refused(detail), "ignored").detail) == b""


@pytest.mark.parametrize(("status", "reported"), [(429, 429), (529, 529), (0, None), (1000, None), (True, None)])
def test_the_http_status_of_a_failure_is_reported(status: int, reported: int | None) -> None:
    """Callers that are kept away from the backend get the status with which it asked for that."""
    error = Exception("no")
    error.status_code = status  # type: ignore[attr-defined]  # as SDKs' exceptions have
    assert fail("l", error, "transient").status == reported
