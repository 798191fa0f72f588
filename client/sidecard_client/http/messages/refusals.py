"""Responses that are no answers: what their waiters get, and how the daemon's rejections look to an SDK."""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidecard_client.http.messages.libraries import library_of
from sidecard_client.http.messages.responses import RawHeaders, mark, raw_headers, response_of, shared_headers
from sidecard_client.protocol.errors import CallFailed, CallRejected, CallTimeout
from sidecard_client.protocol.wire import FailureKind, RejectionReason

if TYPE_CHECKING:
    from sidecard_client.http.messages.libraries import Request, Response

MAX_REFUSAL_BYTES: Final = 60 * 1024
"""Limit of a refusal's body that is shared, so that with its headers it fits the limit of a failure's detail."""

_MAX_MESSAGE_CHARACTERS: Final = 1900
"""Clients truncate messages at 2,000."""

_SHARED_TOO: Final = frozenset({b"retry-after", b"retry-after-ms"})
"""Headers of a refusal that SDKs act on, and that no answer passes on."""

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
    """A response that is not an answer. Its own caller gets ``response``, which is unread, and waiters ``detail``.

    The class name and the text are what waiters of older versions parse. ``answered`` and ``not_stored`` are as those of
    `AnswerNotShared`.
    """

    def __init__(
        self,
        response: "Response",
        kind: FailureKind,
        detail: dict[str, Any] | None = None,
        *,
        answered: bool = False,
        not_stored: str = "",
    ) -> None:
        self.response = response
        self.kind = kind
        self.detail = detail
        self.answered = answered
        self.not_stored = not_stored
        super().__init__(_text_of(response.status_code, detail))


class AnswerNotShared(Exception):
    """An answer of status 2xx ended, and is not to be shared. Never reaches the app: its own caller has the whole answer.

    The fields are those that a failure's report takes from its exception (`call.failures.fail`). ``detail`` is the whole
    answer, for waiters that have seen nothing of it, and has ``ended`` for those that have seen all that its own caller saw.
    """

    def __init__(
        self, kind: FailureKind, not_stored: str, text: str, *, answered: bool, detail: dict[str, Any] | None = None
    ) -> None:
        self.kind = kind
        self.answered = answered
        self.not_stored = not_stored
        self.detail = detail
        super().__init__(_text_of(detail["status"], detail) if is_refusal(detail) and detail else text)


def refusal_detail(
    head: Mapping[str, Any], headers: RawHeaders, body: bytes, *, decoded: bool
) -> dict[str, Any] | None:
    """Return what the waiters of a refused call get; None if that is too large.

    ``head`` is that of an answer. From ``headers``, waiters get those that a refusal adds, such as ``retry-after``. If
    ``decoded``, they do not get the headers of the encoding.
    """
    shared = shared_headers(headers, decoded=decoded, also=_SHARED_TOO)
    size = len(body) + sum(len(name) + len(value) for name, value in shared)
    return {**head, "headers": shared, "body": body} if size <= MAX_REFUSAL_BYTES else None


def has_ended(error: Exception) -> bool:
    """Return whether a followed answer ended for its own caller as it did here, although it is not shared."""
    detail = error.detail if isinstance(error, CallFailed) else None
    return isinstance(detail, dict) and detail.get("ended") is True


def response_to(error: BaseException, request: "Request") -> "Response":
    """Return the response that reports an error to the app. Raises the library's own exceptions, else ``error``."""
    library = library_of(request)
    match error:
        case UpstreamRefused():
            mark(error.response.headers, source="upstream")
            return error.response
        case CallRejected():
            return _rejection(library, error)
        case CallTimeout():
            raise library.ReadTimeout(str(error), request=request) from None
        case CallFailed():
            response = _shared_refusal(library, error)
            if response is None:
                raise library.RemoteProtocolError(str(error), request=request) from None

            return response
        case _:
            try:
                raise error
            finally:
                del error  # which refers to this frame


def broken_stream(error: Exception, request: "Request") -> Exception:
    """Return the library's exception for a stream that broke after its first piece."""
    library = library_of(request)
    kind = library.ReadTimeout if isinstance(error, CallTimeout) else library.ReadError
    exception: Exception = kind(str(error), request=request)
    return exception


def _shared_refusal(library: ModuleType, error: CallFailed) -> "Response | None":
    """Return the holder's response; None if the failure was none."""
    head = error.detail if is_refusal(error.detail) else _head_in(error.message)
    if head is None:
        return None

    response = response_of(library, head, raw_headers(head), library.ByteStream(head["body"]))
    mark(response.headers, source="shared")
    return response


def is_refusal(detail: Any) -> bool:
    """Return whether a failure's detail is what `refusal_detail` returns."""
    match detail:
        case {"status": int(), "headers": list(headers), "body": bytes()}:
            return all(_is_header(header) for header in headers)
        case _:
            return False


def _is_header(header: Any) -> bool:
    match header:
        case [str(), str()]:
            return True
        case _:
            return False


def _text_of(status: int, detail: Mapping[str, Any] | None) -> str:
    content_type, body = "", ""
    if detail is not None:
        named = {name.lower(): value for name, value in detail["headers"]}
        content_type, body = named.get("content-type", ""), detail["body"].decode("utf-8", "replace")

    fits = len(body) + len(content_type) < _MAX_MESSAGE_CHARACTERS
    return f"{status} {content_type}\n{body if fits else ''}"


def _head_in(message: str) -> dict[str, Any] | None:
    """Return the refusal in the message of a holder whose version sends no detail; None for any other failure."""
    kind, _, text = message.partition(": ")
    line, _, body = text.partition("\n")
    status, _, content_type = line.partition(" ")
    if kind not in {UpstreamRefused.__name__, AnswerNotShared.__name__} or not status.isdecimal():
        return None

    headers = [["content-type", content_type]] if content_type else []
    return {"status": int(status), "headers": headers, "body": body.encode()}


def _rejection(library: ModuleType, error: CallRejected) -> "Response":
    status = error.status or _STATUS_OF_REJECTION[error.reason]
    fields = {"type": f"sidecard_{error.reason}", "code": error.reason, "message": str(error)}
    body = msgspec.json.encode({"type": "error", "error": fields})
    headers = {"content-type": "application/json", "content-length": str(len(body)), "x-sidecard-source": "rejected"}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = f"{max(1, round(error.retry_after_seconds))}"

    if error.reason in _RETRY_IS_USELESS:
        headers["x-should-retry"] = "false"

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return response_of(library, {"status": status}, raw, library.ByteStream(body))
