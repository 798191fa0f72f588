"""Requests and responses of httpx and httpx2, as a call sees them and as the app gets them back."""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from sidecard_client.http.answers.errors import kind_of_status
from sidecard_client.http.messages.libraries import library_of
from sidecard_client.protocol.errors import CallFailed, CallRejected, CallTimeout
from sidecard_client.protocol.wire import FailureKind, RejectionReason

if TYPE_CHECKING:
    from sidecard_client._async.streams import AsyncStream
    from sidecard_client._sync.streams import Stream
    from sidecard_client.call.outcome import Outcome
    from sidecard_client.http.messages.libraries import Request, Response

MAX_MESSAGE_CHARACTERS: Final = 1900
"""Limit of a failure's message that carries a response to its waiters: the client truncates messages at 2,000."""

_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "set-cookie", "trailer", "transfer-encoding", "upgrade"})
"""Headers of one connection, or of one client: a cookie is a credential."""

_STATUS_OF_REJECTION: Final[Mapping[RejectionReason, int]] = {
    "breaker_open": 503,
    "saturated": 503,
    "busy": 503,
    "draining": 503,
    "sovereign": 403,
    "budget": 429,
    "not_cached": 504,  # as HTTP's own ``only-if-cached``
}
_RETRY_IS_USELESS: Final = frozenset({"sovereign", "budget", "not_cached"})


class UpstreamRefused(Exception):
    """A response that is not an answer. Its own caller gets ``response``, and waiters its text (`response_of_message`).

    The class name is part of that text, and clients of other versions parse it.
    """

    def __init__(self, response: "Response", kind: FailureKind, body: bytes = b"") -> None:
        self.response = response
        self.kind = kind
        content_type = response.headers.get("content-type", "")
        text = body.decode("utf-8", "replace")
        fits = len(text) + len(content_type) < MAX_MESSAGE_CHARACTERS
        super().__init__(f"{response.status_code} {content_type}\n{text if fits else ''}")


def forwarded(request: "Request", body: bytes | None = None) -> "Request":
    """Return the request as the backend receives it: without our headers, and asking for an unencoded answer.

    ``body`` replaces the request's own.
    """
    replaced = {"accept-encoding"} if body is None else {"accept-encoding", "content-length"}
    headers = [
        (name, value)
        for name, value in request.headers.multi_items()
        if not name.startswith("x-sidecard-") and name not in replaced
    ]
    return library_of(request).Request(
        request.method,
        request.url,
        headers=[*headers, ("accept-encoding", "identity")],
        content=request.content if body is None else body,
        extensions=request.extensions,
    )


def refusal_kind(response: "Response") -> FailureKind | None:
    """Return the failure that a response is; None for an answer. An encoded one cannot be shared."""
    kind = kind_of_status(response.status_code)
    encoded = response.headers.get("content-encoding", "identity").lower() not in {"", "identity"}
    return "ignored" if kind is None and encoded else kind


def head_of(response: "Response") -> dict[str, Any]:
    """Return status and headers, the first piece of the shared answer."""
    headers = [[name, value] for name, value in response.headers.multi_items() if name not in _HOP_BY_HOP]
    return {"status": response.status_code, "headers": headers}


def response_from(
    library: ModuleType, head: Mapping[str, Any], pieces: "Stream[Any] | AsyncStream[Any] | Outcome[Any]", **body: Any
) -> "Response":
    """Return the response that starts with ``head``; ``body`` is its ``content`` or its ``stream``."""
    headers = [(str(name), str(value)) for name, value in head["headers"]]
    headers.append(("x-sidecard-source", pieces.source or ""))
    headers.append(("x-sidecard-backend", pieces.backend or ""))
    if pieces.source in {"cache", "stale", "shared"}:
        headers.append(("x-sidecard-age", f"{pieces.age_seconds:.3f}"))
        headers.append(("x-sidecard-saved-dollars", f"{pieces.saved_dollars:.6g}"))

    if pieces.similarity is not None:
        headers.append(("x-sidecard-similarity", f"{pieces.similarity:.4f}"))

    return library.Response(head["status"], headers=headers, **body)


def response_to(error: Exception, request: "Request") -> "Response":
    """Return the response that reports an error to the app. Raises the library's own exceptions, else ``error``."""
    library = library_of(request)
    match error:
        case UpstreamRefused():
            error.response.headers["x-sidecard-source"] = "upstream"
            return error.response
        case CallRejected():
            return _rejection(library, error)
        case CallTimeout():
            raise library.ReadTimeout(str(error), request=request) from None
        case CallFailed():
            response = response_of_message(library, error.message)
            if response is None:
                raise library.RemoteProtocolError(str(error), request=request) from None

            return response
        case _:
            raise error


def broken_stream(error: CallFailed | CallTimeout, request: "Request") -> Exception:
    """Return the library's exception for a stream that broke after its first piece."""
    library = library_of(request)
    kind = library.ReadTimeout if isinstance(error, CallTimeout) else library.ReadError
    exception: Exception = kind(str(error), request=request)
    return exception


def response_of_message(library: ModuleType, message: str) -> "Response | None":
    """Return the holder's response from the text of its `UpstreamRefused`; None for any other failure."""
    kind, _, text = message.partition(": ")
    line, _, body = text.partition("\n")
    status, _, content_type = line.partition(" ")
    if kind != UpstreamRefused.__name__ or not status.isdecimal():
        return None

    headers = {"x-sidecard-source": "shared"}
    if content_type:
        headers["content-type"] = content_type

    return library.Response(int(status), headers=headers, content=body.encode())


def _rejection(library: ModuleType, error: CallRejected) -> "Response":
    headers = {"x-sidecard-source": "rejected"}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = f"{max(1, round(error.retry_after_seconds))}"

    if error.reason in _RETRY_IS_USELESS:
        headers["x-should-retry"] = "false"

    fields = {"type": f"sidecard_{error.reason}", "code": error.reason, "message": str(error)}
    return library.Response(
        _STATUS_OF_REJECTION[error.reason], headers=headers, json={"type": "error", "error": fields}
    )
