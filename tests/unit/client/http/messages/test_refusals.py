"""Responses that are no answers: what their waiters get, and how the daemon's own refusals look to an SDK."""

from typing import Any, get_args

import httpx
import httpx2
import pytest

from sidecard_client.call.failures import fail
from sidecard_client.http.messages.refusals import (
    MAX_REFUSAL_BYTES,
    AnswerNotShared,
    UpstreamRefused,
    broken_stream,
    has_ended,
    refusal_detail,
    response_to,
)
from sidecard_client.http.messages.responses import head_of
from sidecard_client.protocol.errors import CallFailed, CallRejected, CallTimeout
from sidecard_client.protocol.wire import RejectionReason

REQUEST = httpx2.Request("POST", "http://h/v1/messages", content=b"{}")


def refused(status: int = 400, body: bytes = b"no", **headers: str) -> UpstreamRefused:
    """Return a refusal with all that its waiters get."""
    response = httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(body))
    return UpstreamRefused(
        response, "fatal", refusal_detail(head_of(response), response.headers.raw, body, decoded=False)
    )


def test_a_refusal_reaches_its_waiters_whole() -> None:
    """Waiters get status, body and the headers that SDKs act on, without those of its connection."""
    sent = {"content-type": "text/x", "retry-after": "7", "x-should-retry": "false", "x-request-id": "1", "date": "now"}
    error = refused(400, "né".encode() * 2000, **sent)
    response = response_to(CallFailed("fatal", "long", error.detail), REQUEST)
    assert (response.status_code, response.read()) == (400, "né".encode() * 2000)
    assert {name: response.headers.get(name) for name in sent} == {**sent, "date": None}
    assert response.headers["x-sidecard-source"] == "shared"
    assert fail("l", error, "fatal").status == 400


def test_a_refusal_travels_to_waiters_of_any_version() -> None:
    """The text is that of version 0.1.0, which has no detail; it is read if there is none."""
    error = refused(400, "né".encode(), **{"content-type": "text/x"})
    message = f"{type(error).__name__}: {error}"
    assert message == "UpstreamRefused: 400 text/x\nné"
    response = response_to(CallFailed("fatal", message), REQUEST)
    assert (response.status_code, response.read(), response.headers["content-type"]) == (400, "né".encode(), "text/x")
    assert str(refused(400, b"x" * 1900)) == "400 \n"


def test_a_refusal_that_is_too_large_has_no_detail() -> None:
    """Its waiters make their own calls, instead of getting a part of it."""
    assert refused(body=bytes(MAX_REFUSAL_BYTES)).detail is not None
    assert refused(body=bytes(MAX_REFUSAL_BYTES), x="y").detail is None


@pytest.mark.parametrize(
    "detail",
    [None, "x", {}, {"status": 400, "headers": [["a"]], "body": b""}, {"status": "400", "headers": [], "body": b""}, {"ended": True}],
)  # fmt: skip
@pytest.mark.parametrize("message", ["", "ValueError: 400 text/x\nno", "UpstreamRefused: soon\nno", "UpstreamRefused"])
def test_other_failures_are_no_responses(detail: Any, message: str) -> None:
    """A foreign detail and the message of another exception are not refusals."""
    with pytest.raises(httpx2.RemoteProtocolError):
        response_to(CallFailed("fatal", message, detail), REQUEST)


def test_an_answer_that_is_not_shared_says_what_its_followers_saw() -> None:
    """All of it, if it ended for its own caller; its waiters get it whole if it is an error of the request."""
    whole = {"status": 200, "headers": [], "body": b'{"error": 1}', "ended": True}
    error = AnswerNotShared("fatal", "error", "it reports an error", answered=True, detail=whole)
    reported = fail("l", error, "fatal")
    assert (reported.answered, reported.not_stored) == (True, "error")
    assert has_ended(CallFailed("fatal", "", whole))
    assert response_to(CallFailed("fatal", "", whole), REQUEST).read() == b'{"error": 1}'
    assert not has_ended(CallFailed("fatal", "", whole | {"ended": False}))
    assert not has_ended(CallTimeout(1.0))
    assert str(AnswerNotShared("ignored", "incomplete", "it has no end", answered=True)) == "it has no end"


@pytest.mark.parametrize("reason", get_args(RejectionReason))
@pytest.mark.parametrize("library", [httpx, httpx2])
def test_each_rejection_has_a_status(reason: RejectionReason, library: Any) -> None:
    """SDKs retry 503 and 429 unless ``x-should-retry`` says otherwise."""
    response = response_to(CallRejected(reason, 0.2), library.Request("POST", "http://h/"))
    expected = {"sovereign": 403, "budget": 429, "not_cached": 504}
    assert response.status_code == expected.get(reason, 503)
    assert response.headers["retry-after"] == "1"
    assert ("x-should-retry" in response.headers) is (reason in expected)
    response.read()
    assert response.json()["error"]["code"] == reason
    assert response.headers["content-length"] == str(len(response.content))


@pytest.mark.parametrize("status", [429, 529, 503])
def test_a_pause_has_the_status_with_which_the_backend_asked_for_it(status: int) -> None:
    """SDKs raise what they raise for it."""
    assert response_to(CallRejected("breaker_open", 3.0, status=status), REQUEST).status_code == status


def test_errors_become_the_librarys_own() -> None:
    """An SDK handles httpx2's exceptions, not ours; any other exception is raised as it is."""
    for error, kind in (
        (CallTimeout(1.0), httpx2.ReadTimeout),
        (CallFailed("fatal", "ValueError: no"), httpx2.RemoteProtocolError),
        (KeyError("x"), KeyError),
    ):
        with pytest.raises(kind):
            response_to(error, REQUEST)

    assert isinstance(broken_stream(CallFailed("transient", "x"), REQUEST), httpx2.ReadError)
    assert isinstance(broken_stream(CallTimeout(1.0), REQUEST), httpx2.ReadTimeout)
