"""Requests and responses of httpx2 as a call sees them, and as the app gets them back."""

from typing import Any, get_args

import httpx
import httpx2
import pytest

from sidecard_client.call.option_checks import MAX_SECONDS
from sidecard_client.http.messages.forwarding import read_timeout_of
from sidecard_client.http.messages.libraries import library_of
from sidecard_client.http.translation import (
    MAX_MESSAGE_CHARACTERS,
    UpstreamRefused,
    forwarded,
    head_of,
    refusal_kind,
    response_of_message,
    response_to,
)
from sidecard_client.protocol.errors import CallFailed, CallRejected, CallTimeout
from sidecard_client.protocol.wire import RejectionReason

REQUEST = httpx2.Request("POST", "http://h/v1/messages", content=b"{}")


def test_the_library_is_that_of_the_request() -> None:
    """The request's class distinguishes httpx and httpx2."""
    assert library_of(REQUEST) is httpx2
    assert library_of(httpx.Request("GET", "http://h")) is httpx


def test_a_forwarded_request_lacks_our_headers_and_asks_for_plain_bytes() -> None:
    """Method, URL, body, extensions and all other headers are unchanged."""
    headers = {"x-sidecard-cache": "off", "accept-encoding": "gzip", "x-api-key": "k"}
    request = httpx2.Request("POST", "http://h/p?q=1", headers=headers, content=b"body", extensions={"timeout": {}})
    sent = forwarded(request)
    assert (sent.method, sent.url, sent.content, sent.extensions) == ("POST", request.url, b"body", {"timeout": {}})
    assert (sent.headers["accept-encoding"], sent.headers["x-api-key"]) == ("identity", "k")
    assert "x-sidecard-cache" not in sent.headers


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        ({"read": 5}, 5.0),
        ({"read": None}, MAX_SECONDS),
        ({}, MAX_SECONDS),
        (None, MAX_SECONDS),
        ({"read": 10**8}, MAX_SECONDS),
        ({"read": float("inf")}, MAX_SECONDS),
        ({"read": -1}, 0.0),
    ],
)
def test_the_read_timeout_is_an_extension(timeout: Any, seconds: float) -> None:
    """No read timeout means no limit, whatever the daemon's own is."""
    assert read_timeout_of(httpx2.Request("GET", "http://h", extensions={"timeout": timeout})) == seconds


@pytest.mark.parametrize(
    ("status", "encoding", "kind"),
    [
        (200, "", None),
        (200, "Identity", None),
        (200, "gzip", "ignored"),
        (404, "gzip", "fatal"),
        (503, "", "transient"),
    ],
)
def test_refusals_are_errors_and_encoded_answers(status: int, encoding: str, kind: str | None) -> None:
    """An encoded answer cannot be shared, because it is replayed byte for byte to other clients."""
    response = httpx2.Response(status, headers={"content-encoding": encoding}, stream=httpx2.ByteStream(b""))
    assert refusal_kind(response) == kind


def test_the_head_lacks_headers_of_one_connection() -> None:
    """A cookie is a credential, so it is not shared either."""
    headers = {"Content-Type": "a/b", "Set-Cookie": "c=1", "Transfer-Encoding": "chunked", "Connection": "close"}
    assert head_of(httpx2.Response(200, headers=headers)) == {"status": 200, "headers": [["content-type", "a/b"]]}


def test_a_refusal_travels_to_waiters_of_any_version() -> None:
    """The text between holder and waiter is that of 0.1.0."""
    refusal = UpstreamRefused(httpx2.Response(400, headers={"content-type": "text/x"}), "fatal", "né".encode())
    message = f"{type(refusal).__name__}: {refusal}"
    assert message == "UpstreamRefused: 400 text/x\nné"
    response = response_of_message(httpx2, message)
    assert response is not None
    assert (response.status_code, response.text, response.headers["content-type"]) == (400, "né", "text/x")
    assert response.headers["x-sidecard-source"] == "shared"


def test_a_refusal_too_large_for_a_message_travels_without_its_body() -> None:
    """Status and content type still reach the waiters."""
    refusal = UpstreamRefused(httpx2.Response(400), "fatal", b"x" * MAX_MESSAGE_CHARACTERS)
    assert str(refusal) == "400 \n"


@pytest.mark.parametrize("message", ["", "ValueError: 400 text/x\nno", "UpstreamRefused: soon\nno", "UpstreamRefused"])
def test_other_failures_are_not_responses(message: str) -> None:
    """A message of another exception, or without a status, has no response."""
    assert response_of_message(httpx2, message) is None


@pytest.mark.parametrize("reason", get_args(RejectionReason))
def test_each_rejection_has_a_status(reason: RejectionReason) -> None:
    """SDKs retry 503 and 429 unless ``x-should-retry`` says otherwise."""
    response = response_to(CallRejected(reason, 0.2), REQUEST)
    expected = {"sovereign": 403, "budget": 429, "not_cached": 504}
    assert response.status_code == expected.get(reason, 503)
    assert response.headers["retry-after"] == "1"
    assert ("x-should-retry" in response.headers) is (reason in expected)
    assert response.json()["error"]["code"] == reason


def test_errors_become_the_librarys_own() -> None:
    """An SDK handles httpx2's exceptions, not ours; any other exception is raised as it is."""
    for error, kind in (
        (CallTimeout(1.0), httpx2.ReadTimeout),
        (CallFailed("fatal", "ValueError: no"), httpx2.RemoteProtocolError),
        (KeyError("x"), KeyError),
    ):
        with pytest.raises(kind):
            response_to(error, REQUEST)
